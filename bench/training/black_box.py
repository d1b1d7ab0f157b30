"""Black box: the plain classifier of one data set, backbone, seed and recipe, trained once for many cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.config.black_box import BlackBoxConfig
from bench.contract import CellError, Progress, Samples
from bench.core.files import write_json
from bench.core.integrity import Changed, verify_file
from bench.core.seeding import derive
from bench.core.work_dir import WorkDir
from bench.models.classifier import Classifier
from bench.models.confusion import judge
from bench.training.trainer import Learner, Trainer

# Training images that a classifier's answers are compared on with the labels: enough to tell chance from knowledge.
_LOOKED_AT = 500


class ClassifierLearner(Learner):
    """Classifier with cross entropy over the whole network, as in section 4.2 of the paper."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Return the parameters of ``backbone`` and ``head``."""
        return {
            "backbone": list(self.classifier.backbone.parameters()),
            "head": list(self.classifier.head.parameters()),
        }

    def forward(self, images: Tensor, labels: Tensor, phase: str) -> dict[str, Tensor]:
        """Compute loss and training accuracy of a batch."""
        logits = self.classifier(images)
        correct = (logits.argmax(1) == labels).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, labels), "train_accuracy": correct}


def train_or_load(
    folder: WorkDir,
    config: BlackBoxConfig,
    backbone: Callable[[], nn.Module],
    head: Callable[[int], tuple[Tensor, Tensor]],
    train: Samples,
    seed: int,
    trainer: Callable[[Path], Trainer],
    progress: Progress,
) -> Classifier:
    """Return the classifier in eval mode: pretrained, loaded from its folder, or trained and stored there.

    Another process that needs the same classifier waits for it. ``head`` maps the number of channels to weight and bias
    of the pretrained head; ``trainer`` builds the training loop with its checkpoint in the given folder.

    Returns:
        The classifier on the CPU if it was loaded, else on the trainer's device.

    Raises:
        CellError: if the stored classifier is damaged.
        FollowerDone: after training, on all ranks but 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "head"))
        classifier = Classifier(backbone(), train.classes)
    if config.schedule is None or config.head == "pretrained":
        weight, bias = head(classifier.head.in_features)
        # With more rows than the data set has classes where logits of absent classes count.
        classifier.head = nn.utils.skip_init(nn.Linear, *weight.shape[::-1])
        classifier.head.load_state_dict({"weight": weight, "bias": bias})
        return classifier.eval()
    loop = trainer(folder.resume)
    if loop.process_group.rank and not folder.done:
        # Without the claim, which rank 0 holds for all; this raises `FollowerDone`.
        loop.fit(ClassifierLearner(classifier), config.schedule, train)
    with folder.claim(lambda: progress.note("another process trains the black box: waiting for it")):
        if not folder.done:
            progress.note("training the black box")
            loop.fit(ClassifierLearner(classifier), config.schedule, train)
            folder.work.mkdir(parents=True, exist_ok=True)
            write_json(folder.work / "history.json", loop.history)
            save_file(classifier.state_dict(), folder.work / "model.safetensors")
            folder.finish()
        else:
            progress.note("black box found, not trained again")
            folder.tidy()
    try:
        verify_file(folder.result, "model.safetensors")
        classifier.load_state_dict(load_file(folder.result / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError, Changed) as error:
        # Not retrained in silence: on a GPU that gives other bits, and finished cells started from these.
        raise CellError(
            f"the black box in {folder.path} is damaged ({error}); delete that folder and run again to retrain it"
        ) from error
    return classifier.eval()


@torch.no_grad()
def agreement(
    model: nn.Module, train: Samples, device: torch.device, progress: Progress, batch_size: int = 64
) -> dict[str, float]:
    """Say and return how often a classifier's answers on training images are their labels.

    A classifier that came with its weights may number its classes in another way than the data set does. It is warned
    about where :func:`bench.models.confusion.judge` finds the accuracy near chance, or another order far better. Up to
    500 images from all over the split are looked at.

    Returns:
        ``label_accuracy`` in % and ``label_images``, how many were looked at.
    """
    index = torch.linspace(0, len(train) - 1, min(len(train), _LOOKED_AT)).long()
    labels, answers = [], []
    for batch in train.batches(batch_size, device, index=index):
        labels += batch.labels.tolist()
        logits = model(batch.images)
        answers += logits.argmax(1).tolist()
        width = logits.shape[1]  # of more classes than the data set has, where a pretrained head's others count
    rows = range(width)
    shifted = {"less 1": [row - 1 for row in rows], "plus 1": [row + 1 for row in rows]}
    fit = judge(labels, answers, width, shifted)
    seen = f"the classifier gives the labels of {100 * fit.accuracy:.1f} % of {fit.images} training images"
    if fit.rows is not None:
        progress.note(
            f"WARNING: {seen}, but of {100 * fit.reached:.1f} % with its classes in another order: its rows are not "
            "numbered as the data set's classes, and every number of this cell is of wrong classes"
        )
    elif fit.near_chance:
        chance = f"near chance ({100 * fit.chance:.1f} %)"
        progress.note(f"WARNING: {seen}, which is {chance}: check the weights, the classes and the images")
    return {"label_accuracy": 100 * fit.accuracy, "label_images": float(fit.images)}

"""`annotations.csv` as spreadsheets and scripts write it."""

import unicodedata

import pytest

from bench.cli.decompose import _lines
from bench.contract import RequestError
from bench.data.image_folder import ImageFolder
from bench.data.reader_reports import Faults
from bench.data.text_files import read_text
from bench.data.torch_dataset import ClassImages
from tests.support.cub_trees import picture

NAMES = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(3)]
HEAD = "image,x,y,width,height,beak.x,beak.y\n"
PLAIN = HEAD + "".join(f"{name},1.5,2,30,20,5,6\n" for name in NAMES)


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(NAMES):
        picture(tmp_path / name, seed=number)
    return tmp_path


def table(root, text, encoding="utf-8"):
    (root / "annotations.csv").write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return ImageFolder(root)


def semicolons(text):
    return text.replace(",", ";")


FORMS = {
    "semicolons": semicolons(PLAIN),
    "decimal commas": semicolons(PLAIN).replace("1.5", "1,5"),
    "quoted decimal commas": PLAIN.replace("1.5", '"1,5"'),
    "tabs": PLAIN.replace(",", "\t"),
    "tabs and decimal commas": PLAIN.replace(",", "\t").replace("1.5", "1,50"),
    "bars": PLAIN.replace(",", "|"),
    "the separator told": "sep=;\r\n" + semicolons(PLAIN),
    "backslashes": PLAIN.replace("/", "\\"),
    "dots first": PLAIN.replace("cat/", "./cat/"),
    "quoted": PLAIN.replace("image", '"image"').replace("cat/0.png", '"cat/0.png"'),
    "spaces": PLAIN.replace(",", " , "),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "old Mac line ends": PLAIN.replace("\n", "\r"),
    "empty lines and columns": "\n".join(f"{line},," for line in PLAIN.splitlines()) + "\n,,,,,,,,\n\n",
    "lines of a left out image": PLAIN + ".trash/1.png,1,1,2,2,3,3\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_a_table(root, name):
    picture(root / ".trash/1.png")
    found = table(root, FORMS[name])
    assert found.provides == {"image", "label", "bbox", "keypoints"}
    assert found.parts == ["beak"]
    for record in [*found.split("train"), *found.split("test")]:
        assert record.box == (1.5, 2, 30, 20)
        assert record.keypoints == ((5, 6, True),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(root, encoding):
    assert table(root, PLAIN.replace("beak", "Flügel"), encoding).parts == ["Flügel"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_the_other_unicode_form(root, forms):
    on_disk, written = (unicodedata.normalize(form, "dog/Café.png") for form in forms)
    (root / "dog/2.png").rename(root / on_disk)
    found = table(root, PLAIN.replace("dog/2.png", written))
    assert on_disk in [record.id for split in ("train", "test") for record in found.split(split)]


BOXES = "image,x,y,width,height\n" + "".join(f"{name},1,2,30,20\n" for name in NAMES)
REFUSED = {
    "code page": (PLAIN.replace("beak", "Flügel").encode("cp1252"), "line 1 holds the byte 0xfc, .*Flügel.*save it as"),
    "no text": (b"image,x\n\0\1\2", "it holds NUL characters"),
    "gone": (
        PLAIN + "cat/77.png,1,1,2,2,3,3\nemu/1.png,1,1,2,2,3,3\n",
        r"csv:8: 2 of 8 lines name images .*'cat/77.png'",
    ),
    "one gone": (PLAIN + "cat\\77.png,1,1,2,2,3,3\n", r"csv:8: names an image not on disk: 'cat\\\\77.png'"),
    "elsewhere": (PLAIN + "/etc/hosts,1,1,2,2,3,3\n", "csv:8: '/etc/hosts' leaves the images folder"),
    "no line": (PLAIN.replace("cat/1.png,1.5,2,30,20,5,6\n", ""), "has no line for cat/1.png"),
    "twice by a backslash": (PLAIN + "cat\\0.png,1,1,2,2,3,3\n", "csv:8: 'cat/0.png' was already named on line 2"),
    "fractions": (BOXES.replace("1,2,30,20", "0.1,0.1,0.5,0.5"), "csv:2: the box .* fractions"),
    "points as fractions": (PLAIN.replace("5,6\n", "0.5,0.25\n"), r"csv:2: the key-point \(0.5, 0.25\) and all others"),
    "nothing but images": ("image\n" + "\n".join(NAMES), "csv:1: has the column image and no other"),
    "two signs": (semicolons(BOXES).replace("1;2;", "1,5;2.5;"), "csv:2: a decimal comma, but line 2 has a decimal"),
    "thousands": (BOXES.replace("30,20", '"1,234",20'), "csv:2: width '1,234' may be read in two ways"),
    "underscores": (BOXES.replace("30,20", "3_0,20"), "csv:2: width '3_0' is not a finite number"),
    "open quote": (BOXES + '"cat/9.png,1', r"csv:8: cannot be read as a table"),
    "no name": (BOXES + ",1,2,3,4\n", "csv:8: '' leaves the images folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_table_is_refused_for(root, name):
    text, message = REFUSED[name]
    with pytest.raises(RequestError, match=message) as caught:
        table(root, text)
    assert "\n" not in str(caught.value)
    assert "archive" not in str(caught.value)  # the user wrote it


def test_all_faults_of_a_table_are_collected(root):
    text = (
        BOXES.replace("cat/0.png,1", "cat/0.png,one").replace("cat/1.png,1", "cat/1.png,5,6").replace("dog/2", "dog/9")
    )
    (root / "annotations.csv").write_text(text)
    faults = Faults(collecting=True)
    ImageFolder(root, faults=faults)
    assert [(fault.kind, fault.where[-5:], fault.what) for fault in faults.collected] == [
        ("annotations.csv", "csv:2", "x 'one' is not a finite number"),
        ("annotations.csv", "csv:3", "5 fields belong here"),
        ("annotations.csv", "csv:7", "names an image not on disk: 'dog/9.png'"),
        ("annotations.csv", "s.csv", "has no line for dog/2.png"),
    ]


def test_text_that_only_begins_as_utf_16(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfea\0b")
    with pytest.raises(ValueError, match="it begins as UTF-16 but continues in another encoding"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_classes_with_a_mark(root, encoding):
    (root / "classes.txt").write_bytes("dog\r\n\r\ncat\r\n".encode(encoding))
    assert _lines(root / "classes.txt") == ["dog", "cat"]
    assert ClassImages(root, None, _lines(root / "classes.txt")).classes == ["dog", "cat"]
    (root / "classes.txt").write_bytes("Café\n".encode("cp1252"))
    with pytest.raises(RequestError, match=r"line 1 holds the byte 0xe9.*'Café'"):
        _lines(root / "classes.txt")


def test_a_table_is_never_passed_over(root):
    (root / "Annotations.CSV").write_text(PLAIN)
    assert ImageFolder(root).parts == ["beak"]
    (root / "Annotations.CSV").unlink()
    for split in ("train", "test"):
        picture(root / "set" / split / "cat/1.png")
    (root / "set/annotations.csv").symlink_to("nowhere")
    with pytest.raises(RequestError, match=r"annotations.csv: cannot be read as a table"):
        ImageFolder(root / "set")

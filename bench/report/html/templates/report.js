// Tables that can be sorted and filtered. Without this file the report says the same, in its first order.
"use strict";

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function valueOf(row, place, kind) {
  const field = row.cells[place];
  const text = field ? field.dataset.value ?? field.textContent.trim() : "";
  if (text === "" || text === "–") return null;
  return kind === "number" ? Number(text) : text;
}

function sort(table, head, direction, said) {
  const { cellIndex } = head;
  const kind = head.dataset.sort;
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("head"));
    const valued = rows.map((row) => [valueOf(row, cellIndex, kind), row]);
    valued.sort(([a], [b]) => {
      // What has no value stands below, whichever way.
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (kind === "number" ? a - b : collator.compare(a, b));
    });
    body.append(...valued.map(([, row]) => row));
  }
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  said.textContent = `sorted by ${head.textContent.trim()}, ${direction}`;
}

function makeSortable(table, said) {
  for (const head of table.tHead.rows[0].cells) {
    if (!head.dataset.sort) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first ?? "ascending";
      const next = now === null ? first : now === "ascending" ? "descending" : "ascending";
      sort(table, head, next, said);
    });
  }
}

function makeFilterable(table, said) {
  if (table.tBodies[0].rows.length < 12) return;
  const label = document.createElement("label");
  label.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  label.append("Show only rows with ", input);
  table.closest(".scroll").before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    said.textContent = `${shown} rows`;
  });
}

const said = document.createElement("p");
said.className = "unseen";
said.setAttribute("role", "status");
document.body.append(said);
for (const table of document.querySelectorAll("table.sortable")) makeSortable(table, said);
for (const table of document.querySelectorAll("table.filterable")) makeFilterable(table, said);

"use strict";
// Sort the table of modules by the column whose heading is pressed; a second press reverses the order.
for (const heading of document.querySelectorAll("table.sortable th")) {
  const press = () => {
    const body = heading.closest("table").tBodies[0];
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    const key = (row) => Number(row.cells[heading.cellIndex].dataset.value);
    const rows = [...body.rows].sort((one, two) => (rising ? 1 : -1) * (key(one) - key(two)));
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    body.append(...rows);
  };
  heading.tabIndex = 0;
  heading.addEventListener("click", press);
  heading.addEventListener("keydown", (event) => event.key === "Enter" && press());
}

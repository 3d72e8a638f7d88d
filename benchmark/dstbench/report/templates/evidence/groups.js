{
  const tables = JSON.parse(document.getElementById("data-groups").textContent);
  for (const select of document.querySelectorAll("select[data-groups]")) {
    const place = select.dataset.groups;
    const show = () => {
      const rows = tables[place][select.value].map((cells) => {
        const row = document.createElement("tr");
        cells.forEach((text, column) => {
          const cell = row.insertCell();
          cell.textContent = text;
          if (column > 0 && column < 5) cell.className = "number";
        });
        return row;
      });
      document.getElementById(`groups-rows-${place}`).replaceChildren(...rows);
    };
    select.addEventListener("change", show);
    if (select.selectedIndex >= 0) show(); // a browser may have kept what was chosen before
  }
}

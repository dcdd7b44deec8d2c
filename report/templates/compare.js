// A gallery's figures: two of their pictures over each other with a slider between, and a zoom at the worst spot.
// Built when asked for; a page without scripts keeps its small pictures and their links to the large ones.
"use strict";
for (const figure of document.querySelectorAll("figure.case[data-spot]")) {
  const links = [...figure.querySelectorAll(".panes a")];
  const title = link => link.textContent.trim();
  const make = (tag, into, values = {}) => into.appendChild(Object.assign(document.createElement(tag), values));
  const open = make("button", figure.querySelector("figcaption"), { type: "button", textContent: "compare" });
  open.setAttribute("aria-expanded", "false");
  let box = null;

  const build = () => {
    const box = document.createElement("div");
    box.className = "compare";
    figure.insertBefore(box, figure.querySelector(".panes"));
    const tools = make("div", box, { className: "tools" });
    const stage = make("div", box, { className: "stage" });
    const under = make("img", make("div", stage));
    const half = make("div", stage, { className: "half" });
    const over = make("img", half);
    for (const picture of [under, over]) picture.style.transformOrigin = figure.dataset.spot;

    const choice = (words, picture, chosen) => {
      const label = make("label", tools, { textContent: words + " " });
      const list = make("select", label);
      for (const link of links) make("option", list, { textContent: title(link), value: link.href });
      list.selectedIndex = Math.max(0, links.findIndex(link => title(link) === chosen));
      const show = () => {
        picture.src = list.value;
        picture.alt = `${list.selectedOptions[0].textContent} of ${figure.querySelector("strong").textContent}`;
      };
      list.addEventListener("change", show);
      show();
    };
    choice("left", over, links.some(link => title(link) === "blend") ? title(links[links.length - 1]) : title(links[0]));
    const slider = make("input", tools, { type: "range", min: 0, max: 100, value: 50 });
    slider.setAttribute("aria-label", "how much of the left picture is shown, percent");
    choice("right", under, "blend");
    const slide = () => { half.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; stage.style.setProperty("--at", slider.value + "%"); };
    slider.addEventListener("input", slide);
    slide();
    const zoom = make("button", tools, { type: "button", textContent: "zoom at the worst spot" });
    zoom.setAttribute("aria-pressed", "false");
    zoom.addEventListener("click", () => zoom.setAttribute("aria-pressed", String(stage.classList.toggle("zoomed"))));
    return box;
  };

  open.addEventListener("click", () => {
    if (box === null) box = build(); else box.hidden = !box.hidden;
    open.setAttribute("aria-expanded", String(!box.hidden));
  });
}

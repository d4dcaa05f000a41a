"use strict";
// Each image gets a viewer in which one picture slides over another; without this script all four stand side by side.
for (const figure of document.querySelectorAll(".case")) {
  const images = [...figure.querySelectorAll("img")];
  const stage = document.createElement("div");
  stage.className = "stage";
  const below = new Image(), above = new Image();
  above.className = "above";
  below.alt = above.alt = "";
  const slide = document.createElement("input");
  Object.assign(slide, { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  const line = document.createElement("span");
  line.className = "edge";
  stage.append(below, above, line, slide);
  stage.style.aspectRatio = images[0].width + " / " + images[0].height;
  const choose = (label, first, show) => {
    const box = document.createElement("label"), select = document.createElement("select");
    for (const image of images) select.add(new Option(image.dataset.title));
    select.value = first;
    select.addEventListener("change", () => show(images[select.selectedIndex]));
    box.append(label + " ", select);
    show(images[select.selectedIndex]);
    return box;
  };
  const title = () => slide.setAttribute("aria-label", "Slide between " + [below, above].map(i => i.dataset.title).join(" and "));
  const put = image => shown => { image.src = shown.src; image.dataset.title = shown.dataset.title; title(); };
  const bar = document.createElement("div");
  bar.className = "choice";
  bar.append(choose("left", "truth", put(above)), choose("right", "prediction", put(below)));
  const move = () => stage.style.setProperty("--at", slide.value + "%");
  slide.addEventListener("input", move);
  move();
  const viewer = document.createElement("div");
  viewer.className = "viewer";
  viewer.append(stage, bar);
  figure.querySelector("figcaption").after(viewer);
  figure.classList.add("sliding");
}
const closed = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; closed.push(part); }
});
addEventListener("afterprint", () => { for (const part of closed.splice(0)) part.open = false; });

// What the pages need beyond their theme: sliders that say their value, names for screen readers, formulas that keep
// their commas, and paper.
(() => {
  "use strict";

  // A slider's number can be an index or an exponent; what it means stands in the <output> beside it.
  const tell = (slider) => {
    const label = slider.closest("label");
    const next = (label || slider).nextElementSibling;
    const beside = next && next.tagName === "OUTPUT" ? next : null;
    const output = document.querySelector(`output[for~="${slider.id}"]`) || beside;
    if (!output) return;
    const copy = () => slider.setAttribute("aria-valuetext", output.textContent.trim());
    new MutationObserver(copy).observe(output, { childList: true, characterData: true, subtree: true });
    copy();
  };

  // Names and roles that the theme or a notebook's reader gives wrongly.
  const name = () => {
    document.querySelectorAll("figure[role=group]").forEach((figure) => figure.removeAttribute("role"));
    const misnamed = "details.hide > summary[aria-label], button.search-button-field[aria-label]";
    document.querySelectorAll(misnamed).forEach((control) => control.removeAttribute("aria-label"));
    document.querySelectorAll(".citation-list[role=list]").forEach((list) => list.removeAttribute("role"));
    document.querySelectorAll(".bd-links li > details > summary").forEach((fold) => {
      const link = fold.closest("li").querySelector("a");
      fold.setAttribute("aria-label", `Pages of ${link.textContent.trim()}`);
    });
    document.querySelectorAll(".bd-article .solution > .admonition-title > a").forEach((link) => {
      const text = link.firstChild; // begins with the space before the link, which would be underlined
      if (text.textContent === text.textContent.trimStart()) return;
      text.textContent = text.textContent.trimStart();
      link.before(" ");
    });
    const brand = document.querySelector(".bd-sidebar-primary .navbar-brand");
    if (brand) {
      brand.parentElement.setAttribute("role", "navigation");
      brand.parentElement.setAttribute("aria-label", "Book");
    }
  };

  // A formula in a sentence keeps its comma: a browser may break the line between any box and what stands beside it.
  const hold = () => {
    document.querySelectorAll(".bd-article span.math").forEach((formula) => {
      const before = formula.previousSibling;
      const after = formula.nextSibling;
      const opened = before instanceof Text ? before.data.match(/[([“]*$/)[0].length : 0;
      const closed = after instanceof Text ? after.data.match(/^[.,;:!?)\]’”]*/)[0].length : 0;
      if (!opened && !closed) return;
      const held = document.createElement("span");
      held.className = "unbroken";
      if (closed) after.splitText(closed);
      formula.before(held);
      if (opened) held.append(before.splitText(before.length - opened));
      held.append(formula);
      if (closed) held.append(after);
    });
  };

  // What scrolls sideways can be reached by the keyboard.
  const reach = () => {
    const wide = "div.math, .cell_output .output, .cell_output figure, .pst-scrollable-table-container, div.highlight pre";
    document.querySelectorAll(`.bd-article :is(${wide})`).forEach((box) => {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  };

  // Paper: light, and everything open; afterwards as it was.
  let undo = null;
  const onPaper = () => {
    if (undo) return;
    const root = document.documentElement.dataset;
    const { theme, mode } = root;
    const folded = [...document.querySelectorAll(".bd-article details:not([open])")];
    const hidden = [...document.querySelectorAll(".bd-article .toggle-hidden")];
    undo = () => {
      Object.assign(root, { theme, mode });
      folded.forEach((fold) => (fold.open = false));
      hidden.forEach((fold) => fold.classList.add("toggle-hidden"));
      undo = null;
    };
    Object.assign(root, { theme: "light", mode: "light" });
    folded.forEach((fold) => (fold.open = true));
    hidden.forEach((fold) => fold.classList.remove("toggle-hidden"));
  };
  const onScreen = () => undo && undo();

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".bd-article input[type=range]").forEach(tell);
    name();
    hold();
  });
  addEventListener("load", async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    reach();
    addEventListener("resize", reach);
  });
  addEventListener("beforeprint", onPaper);
  addEventListener("afterprint", onScreen);
  matchMedia("print").addEventListener("change", (print) => (print.matches ? onPaper() : onScreen()));
})();

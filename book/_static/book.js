// What the pages need beyond their theme: sliders that say their value, names for folds and screen readers, formulas
// that keep their commas, and paper.
(() => {
  "use strict";
  const [BEGIN, END] = ["### BEGIN SOLUTION", "### END SOLUTION"];
  const LONG = 32; // lines of code: half a sheet

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

  // A fold is called by what it holds.
  const callFold = (fold, exercise) => {
    const code = fold.querySelector("pre").textContent;
    const first = code.match(/^(?:def |class )?(?!(?:from|import|for|with|assert|print)\b)(\w+)/m)?.[1] ?? "the cell";
    const output = fold.parentElement.querySelector(".cell_output");
    const held = code.includes(BEGIN) ? `an answer to ${exercise}`
      : code.includes(': passed")') ? `the check of ${exercise}`
      : output?.querySelector("figure, canvas, img, .text_html svg") ? "the code of this figure"
      : `the code of ${output ? "this output" : first}`;
    fold.querySelector("summary > .collapsed").textContent = `Show ${held}`;
    fold.querySelector("summary > .expanded").textContent = `Hide ${held}`;
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
    let exercise = "";
    document.querySelectorAll(".bd-article :is(.exercise > .admonition-title, details.hide)").forEach((found) => {
      if (found.matches(".hide")) callFold(found, exercise);
      else exercise = found.textContent.match(/Exercise [\d.]+/)?.[0] ?? "the exercise";
    });
    const brand = document.querySelector(".bd-sidebar-primary .navbar-brand");
    if (brand) {
      brand.parentElement.setAttribute("role", "navigation");
      brand.parentElement.setAttribute("aria-label", "Book");
    }
  };

  // An answer in the cell of an exercise stands in the solution too, which is enough on paper; and a long cell may be
  // divided there.
  const prepare = () => {
    document.querySelectorAll(".bd-article .cell_input pre").forEach((code) => {
      code.closest(".cell_input").classList.toggle("long", code.textContent.split("\n").length > LONG);
      const comments = [...code.querySelectorAll("span.c1")];
      comments.filter((comment) => comment.textContent === BEGIN).forEach((begin) => {
        const follows = (comment) => begin.compareDocumentPosition(comment) & Node.DOCUMENT_POSITION_FOLLOWING;
        const end = comments.find((comment) => comment.textContent === END && follows(comment));
        const range = document.createRange();
        range.setStartBefore(begin);
        range.setEndAfter(end);
        const given = document.createElement("span");
        given.className = "given";
        range.surroundContents(given);
        const answer = document.createElement("span");
        answer.className = "answer";
        given.replaceWith(answer);
        answer.append(given);
      });
    });
  };

  // A formula in a sentence keeps its comma: a browser may break the line between any box and what stands beside it.
  const hold = () => {
    document.querySelectorAll(".bd-article code.literal span.pre").forEach((word) => {
      if (/^-.{1,30}$/.test(word.textContent)) word.classList.add("unbroken"); // not after the hyphens of --option
    });
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
    prepare();
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

// Search by section: under a page that was found stand the sections in which the words are, with a line of each.
(() => {
  "use strict";
  const SHOWN = 5; // sections of a page
  const GREEK = Object.fromEntries(
    ("alpha α beta β gamma γ delta δ epsilon ϵ eta η theta θ kappa κ lambda λ mu μ nu ν pi π rho ρ sigma σ tau τ phi φ psi ψ " +
      "omega ω Gamma Γ Delta Δ Theta Θ Sigma Σ Pi Π Omega Ω langle ⟨ rangle ⟩ propto ∝ le ≤ ge ≥ approx ≈ to → infty ∞ cdot · " +
      "times × pm ± sum ∑ int ∫ partial ∂ nabla ∇ in ∈ ell ℓ").split(" ").reduce((pairs, word, i, all) =>
      i % 2 ? [...pairs, [all[i - 1], word]] : pairs, []));

  // A formula in a line of text: letters for commands, no braces. A displayed one is left out.
  const plainFormula = (tex) =>
    tex.replace(/^\\\(|\\\)$/g, "").replace(/\\\||\\lVert|\\rVert/g, "‖").replace(/\\[,;!: ]/g, " ")
      .replace(/\\(?:math\w+|text|operatorname|left|right|bar|hat|tfrac|d?frac)(?![A-Za-z])/g, "")
      .replace(/\\([A-Za-z]+)/g, (_, name) => GREEK[name] || name).replace(/[{}]/g, "");

  // What a section says in its own paragraphs, then as a whole, code included; not what stands in the sections in it.
  const ownTexts = (section) => {
    const copy = section.cloneNode(true);
    copy.querySelectorAll("section, .headerlink, script, style, h1, h2, h3, h4").forEach((e) => e.remove());
    copy.querySelectorAll("div.math").forEach((e) => e.replaceWith(" … "));
    copy.querySelectorAll(".math").forEach((e) => e.replaceWith(plainFormula(e.textContent)));
    return [...copy.querySelectorAll("p, dt"), copy].map((e) => e.textContent.replace(/\s+/g, " ").trim());
  };

  const heading = (section) => {
    const copy = section.querySelector(":scope > :is(h1, h2, h3, h4, h5)").cloneNode(true);
    copy.querySelectorAll(".headerlink").forEach((e) => e.remove());
    copy.querySelectorAll(".math").forEach((e) => e.replaceWith(plainFormula(e.textContent)));
    return copy.textContent.trim();
  };

  const count = (text, words) => words.filter((word) => word.test(text)).length;

  // The words where most of them stand together.
  const excerpt = (texts, words) => {
    const best = Math.max(...texts.map((text) => count(text, words)));
    const text = texts.find((one) => count(one, words) === best);
    const from = Math.max(Math.min(...words.map((word) => text.search(word)).filter((at) => at >= 0), text.length) - 100, 0);
    const start = from ? text.indexOf(" ", from) + 1 : 0;
    const line = document.createElement("p");
    line.className = "context";
    const end = start + 220 < text.length ? text.lastIndexOf(" ", start + 220) : text.length; // no half word
    line.textContent = `${start ? "… " : ""}${text.slice(start, end).trim()}${end < text.length ? " …" : ""}`;
    return line;
  };

  const summary = (html, keywords, anchor) => {
    const main = new DOMParser().parseFromString(html, "text/html").querySelector("[role=main]");
    const words = [...keywords].map((word) => new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(/\W/g, "\\$&")}`, "iu"));
    const named = anchor && main.querySelector(anchor);
    if (named) return excerpt(ownTexts(named), words);
    const found = [...main.querySelectorAll("section[id]")]
      .filter((section) => section.querySelector(":scope > :is(h1, h2, h3, h4, h5)"))
      .map((section) => ({ section, title: heading(section), texts: ownTexts(section) }))
      .map((entry) => ({ ...entry, hits: count([entry.title, ...entry.texts].join(" "), words) }))
      .filter((entry) => entry.hits > 0);
    const all = Math.max(0, ...found.map((entry) => entry.hits)); // sections with all of the words, if there are such
    const worth = ({ title, texts }) => 10 * count(title, words) + texts.reduce((sum, text) => sum + count(text, words), 0);
    const shown = found.filter((entry) => entry.hits === all).sort((a, b) => worth(b) - worth(a)).slice(0, SHOWN);
    const list = document.createElement("ul");
    list.className = "sections";
    queueMicrotask(() => { // by then the list stands under its page's link
      const page = list.closest("li").querySelector("a").getAttribute("href").split("#")[0];
      for (const { section, title, texts } of shown) {
        const item = list.appendChild(document.createElement("li"));
        const link = item.appendChild(document.createElement("a"));
        link.href = `${page}#${section.id}`;
        link.textContent = title;
        item.append(excerpt(texts, words));
      }
    });
    return list;
  };

  addEventListener("DOMContentLoaded", () => {
    if (typeof Search !== "undefined" && Search.makeSearchSummary) Search.makeSearchSummary = summary;
  });
})();

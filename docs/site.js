// The theme wraps code and tables in parts that scroll and in groups of buttons: let a keyboard reach them, name each.
const improve = () => {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, pre > code")) part.tabIndex = 0;
  document.querySelectorAll(".md-code__nav").forEach((group, i) => group.setAttribute("aria-label", `Code ${i + 1}`));
};
new MutationObserver(improve).observe(document.documentElement, { childList: true, subtree: true });
improve();

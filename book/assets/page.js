// What the theme leaves undone on every page
(() => {
  // Paper is white
  const page = document.documentElement.dataset;
  let theme;
  addEventListener("beforeprint", () => { theme = page.theme; page.theme = "light"; });
  addEventListener("afterprint", () => { page.theme = theme; });

  // On a phone the contents lie over the page: whoever has chosen a section wants to see it
  for (const dialog of document.querySelectorAll("dialog"))
    dialog.addEventListener("click", ({ target }) => { if (target.closest("a")) dialog.close(); });
})();

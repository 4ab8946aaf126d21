// Copies the address of the page, and says so on the button.
async (fits) => {
  const button = document.querySelector("#copy-link");
  let said = "Too many words for a link";
  if (fits) {
    try {
      await navigator.clipboard.writeText(location.href);
      said = "Copied";
    } catch {
      said = "Copy it from the address bar"; // the browser allows no access to the clipboard
    }
  }
  button.dataset.name ??= button.textContent;
  button.textContent = said;
  clearTimeout(window.dinov3segCopied);
  window.dinov3segCopied = setTimeout(() => { button.textContent = button.dataset.name; }, 2500);
}

// Writes words and options into the fragment of the address, which dinov3seg_hf/demo/address.py reads. Returns whether
// they fit. What is the default is left out.
(fixed, words, inference, head, templates, refine, example) => {
  const fields = new URLSearchParams(), view = document.querySelector("#viewer .viewer");
  const threshold = (view && view.dataset.threshold) || "0.00";
  if (words) fields.set("words", words);
  if (example !== null && example !== undefined) fields.set("example", example);
  if (inference !== fixed.inference) fields.set("inference", inference);
  if (head !== fixed.head) fields.set("head", head);
  if (String(templates) !== String(fixed.templates)) for (const template of templates) fields.append("templates", template);
  if (refine) fields.set("refine", "true");
  if (Number(threshold)) fields.set("threshold", threshold);
  const fits = String(fields).length <= fixed.max_length;
  const fragment = fits && String(fields) ? "#" + fields : "";
  history.replaceState(null, "", location.pathname + location.search + fragment);
  return fits;
}

(content) => {
  if (!content) return;
  const text = typeof content === "string" ? content : JSON.stringify(content);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = (JSON.parse(text).image || "image") + ".json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

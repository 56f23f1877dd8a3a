() => {
  // Returns the visible texts whose contrast to their ground is below 4.5 to 1 (WCAG 2.2, 1.4.3), with the ratio.
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const pixel = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (node) => {
    const color = pixel(getComputedStyle(node).backgroundColor);
    return color[3] > 200 || !node.parentElement ? color : ground(node.parentElement);
  };
  const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
  const shown = [...document.querySelectorAll("body *")].filter((node) => hasText(node) && node.checkVisibility() && !node.closest(".thumb, noscript"));
  const ratio = (node) => {
    const [high, low] = [light(pixel(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  return shown.filter((node) => ratio(node) < 4.5).map((node) => `${node.className || node.id || node.tagName} ${ratio(node).toFixed(2)}`);
}

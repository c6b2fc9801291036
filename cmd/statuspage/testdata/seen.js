(() => {
  // Contrast is WCAG's (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
  const channels = text => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    const scale = text.startsWith('color(srgb') ? 1 : 255;
    return { rgb: numbers.slice(0, 3).map(n => n / scale), alpha: numbers[3] ?? 1 };
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.alpha === 1) return colour.rgb;
    }
    return [1, 1, 1];
  };
  const contrast = (a, b) => {
    const [dark, bright] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (bright + 0.05) / (dark + 0.05);
  };
  const outside = [], faint = [], ids = {};
  for (const element of document.body.querySelectorAll('*')) {
    const box = element.getBoundingClientRect();
    // What does not fit into its own box is cut off, or stands over what is beside it.
    const cut = element.clientWidth && element.scrollWidth > element.clientWidth;
    if (box.left < 0 || box.right > innerWidth || cut) outside.push(element.outerHTML.slice(0, 80));
    if (element.id) ids[element.id] = (ids[element.id] ?? 0) + 1;
    const style = getComputedStyle(element);
    const text = [...element.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
    const wanted = element.tagName === 'circle' ? 3 : text ? 4.5 : 0;
    const colour = element.tagName === 'circle' ? style.fill : style.color;
    if (wanted && contrast(channels(colour).rgb, behind(element)) < wanted) faint.push(element.outerHTML.slice(0, 80));
  }
  return {
    scrolls: document.scrollingElement.scrollWidth, width: innerWidth, outside, faint,
    headings: [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1]),
    twice: Object.keys(ids).filter(id => ids[id] > 1),
  };
})()

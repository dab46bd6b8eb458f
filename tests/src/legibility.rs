//! Whether a person can read a page: on a telephone and on a wide screen, in both
//! themes, with everything opened.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::browser::{Browser, Page, Theme};

/// A telephone, and a laptop.
const WIDTHS: [u32; 2] = [390, 1280];

/// Looks at the page in every way and leaves a picture of each: `light-390.png`.
///
/// # Panics
/// If there is a way in which it cannot be read, or if it loads or runs anything.
pub fn check(file: &Path, pictures: &Path) -> Vec<PathBuf> {
    let mut browser = Browser::start();
    let mut page = browser.open(file);
    let mut saved = Vec::new();
    for opened in [false, true] {
        if opened {
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)");
        }
        for width in WIDTHS {
            for theme in [Theme::Light, Theme::Dark] {
                page.show(width, theme);
                let way = format!("{} at {width} px, opened: {opened}", theme.name());
                check_width(&mut page, width, &way);
                check_contrast(&mut page, theme, &way);
                if !opened {
                    let picture = pictures.join(format!("{}-{width}.png", theme.name()));
                    page.save_picture(&picture);
                    saved.push(picture);
                }
            }
        }
    }
    check_structure(&mut page);
    assert_eq!(page.complaints(), Vec::<String>::new());
    let requests = page.requests();
    assert_eq!(
        requests.len(),
        1,
        "more than the page is loaded: {requests:?}"
    );
    saved
}

/// Nothing sticks out to the right, and every text has room.
fn check_width(page: &mut Page<'_>, width: u32, way: &str) {
    let found = page.evaluate("[innerWidth, document.documentElement.scrollWidth]");
    assert_eq!(found[0], width, "{way}");
    assert!(found[1].as_u64() <= Some(width.into()), "{way}: {found}");
    let outside = page.evaluate(OUTSIDE);
    assert_eq!(outside, Value::Array(Vec::new()), "{way}: it sticks out");
    let squeezed = page.evaluate(SQUEEZED);
    assert_eq!(
        squeezed,
        Value::Array(Vec::new()),
        "{way}: no room for text"
    );
}

/// WCAG 2.2, 1.4.3: at least 4.5 to 1 for text.
fn check_contrast(page: &mut Page<'_>, theme: Theme, way: &str) {
    let found = page.evaluate(CONTRAST);
    let texts = found["texts"].as_u64().unwrap_or_default();
    assert!(texts > 50, "{way}: only {texts} texts were looked at");
    assert_eq!(found["faint"], Value::Array(Vec::new()), "{way}: too faint");
    let is_dark = found["page"].as_f64().expect("a luminance") < 0.2;
    assert_eq!(is_dark, theme == Theme::Dark, "{way}: {}", found["page"]);
}

/// What a screen reader needs, and what a page without scripts has not.
fn check_structure(page: &mut Page<'_>) {
    let found = page.evaluate(STRUCTURE);
    assert_eq!(found, Value::Array(Vec::new()), "structure");
}

/// Elements that reach beyond the window, unless they scroll by themselves.
const OUTSIDE: &str = r"(() => {
  const scrolls = element => {
    for (let one = element; one; one = one.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(one).overflowX)) return true;
    return false;
  };
  return [...document.body.querySelectorAll('*')]
    .filter(one => one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1)
    .filter(one => !scrolls(one) && !one.closest('svg svg'))
    .map(one => `${one.tagName} ${one.className.baseVal ?? one.className} ${one.textContent.slice(0, 40)}`)
    .slice(0, 10);
})()";

/// Texts that are set letter under letter, and labels of a chart that run into one
/// another.
const SQUEEZED: &str = r"(() => {
  const found = [];
  for (const one of document.body.querySelectorAll('*')) {
    const own = [...one.childNodes].filter(node => node.nodeType === Node.TEXT_NODE).map(node => node.textContent.trim()).join(' ');
    if (own.length < 12 || !one.checkVisibility() || one.closest('svg')) continue;
    const box = one.getBoundingClientRect();
    if (box.width < 40 && box.height > 3 * box.width) found.push(`${one.tagName}: ${own.slice(0, 40)}`);
  }
  for (const axis of document.querySelectorAll('svg')) {
    const labels = [...axis.querySelectorAll('text')].filter(one => one.checkVisibility());
    const boxes = labels.map(one => one.getBoundingClientRect());
    for (let index = 1; index < boxes.length; index += 1)
      if (boxes[index].left < boxes[index - 1].right) found.push(`labels: ${labels[index - 1].textContent} and ${labels[index].textContent}`);
  }
  return found.slice(0, 10);
})()";

const CONTRAST: &str = r"(() => {
  const parse = text => {
    const parts = text.match(/[\d.]+/g).map(Number);
    return { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
  };
  const over = (top, below) => top.rgb.map((one, index) => one * top.alpha + below[index] * (1 - top.alpha));
  const luminance = rgb => {
    const [red, green, blue] = rgb.map(one => {
      const share = one / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      layers.push(colour);
      if (colour.alpha === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const faint = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility() || element.tagName === 'title') continue;
    texts += 1;
    const style = getComputedStyle(element);
    const below = background(element);
    const colour = over(parse(element.closest('svg') ? style.fill : style.color), below);
    const [low, high] = [luminance(colour), luminance(below)].sort((left, right) => left - right);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${element.tagName} ${element.className.baseVal ?? element.className}: ${node.textContent.trim().slice(0, 40)}`);
  }
  return { texts, faint: faint.slice(0, 10), page: luminance(background(document.body)) };
})()";

const STRUCTURE: &str = r"(() => {
  const wrong = [];
  const all = selector => [...document.querySelectorAll(selector)];
  if (document.scripts.length) wrong.push('a script');
  if (!document.documentElement.lang) wrong.push('no language');
  if (all('h1').length !== 1) wrong.push('not one h1');
  for (const one of all('*'))
    for (const { name, value } of one.attributes)
      if (name.startsWith('on') || /^\s*javascript:/i.test(value)) wrong.push(`runs: ${name}=${value}`);
  for (const one of all('th')) if (!one.scope) wrong.push(`th without scope: ${one.textContent}`);
  for (const one of all('table')) if (!one.querySelector('th[scope=col]')) wrong.push('a table without heads');
  for (const one of all('svg[role=img]')) if (!one.querySelector('title')?.textContent) wrong.push('svg without title');
  const ids = all('[id]').map(one => one.id);
  for (const id of ids) if (ids.filter(other => other === id).length > 1) wrong.push(`id twice: ${id}`);
  for (const one of all('a[href]')) {
    const target = one.getAttribute('href');
    if (!target.startsWith('#') || !document.getElementById(target.slice(1))) wrong.push(`leads nowhere: ${target}`);
  }
  return wrong.slice(0, 10);
})()";

// Keeps the pieces of the page as the server draws them. Focus, open details and a selection stay as they are.
"use strict";

const LOST_MS = 15000; // the server gives a sign of life every 5 s

const lost = document.getElementById("lost");
let heard = Date.now();

function openDetails(piece) {
  return new Set([...piece.querySelectorAll("details[open]")].map((one) => one.id));
}

function isSelectedIn(piece) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && piece.contains(selection.anchorNode);
}

function draw(piece, html) {
  if (isSelectedIn(piece)) return false;
  const open = openDetails(piece);
  const focused = piece.contains(document.activeElement) ? focusPath(piece, document.activeElement) : null;
  piece.innerHTML = html; // made by the server's templates, which escape every text
  for (const one of piece.querySelectorAll("details")) one.open = open.has(one.id);
  if (focused) focused()?.focus({ preventScroll: true });
  return true;
}

// Finds the element that has taken the place of the focused one.
function focusPath(piece, element) {
  const kind = element.tagName;
  const place = [...piece.querySelectorAll(kind)].indexOf(element);
  return () => piece.querySelectorAll(kind)[place];
}

const waiting = new Map();

function apply(changed) {
  for (const [name, html] of Object.entries(changed)) waiting.set(name, html);
  for (const [name, html] of waiting) {
    const piece = document.querySelector(`[data-piece="${name}"]`);
    if (!piece) waiting.delete(name);
    else if (name === "news") { piece.textContent = html; waiting.delete(name); }
    else if (draw(piece, html)) waiting.delete(name);
  }
}

function told() {
  const silent = Date.now() - heard > LOST_MS;
  if (silent && lost.hidden) {
    lost.textContent = `No word from the server of this page since ${new Date(heard).toISOString().slice(11, 19)} UTC: the figures are old.`;
  }
  lost.hidden = !silent;
}

let source = null;

function listen() {
  source = new EventSource("/events");
  source.onmessage = (event) => {
    heard = Date.now();
    told();
    apply(JSON.parse(event.data));
  };
  source.onerror = () => {
    // Closed for good: the session has ended, or too many look. Ask the page itself, which leads to the way in.
    if (source.readyState === EventSource.CLOSED) setTimeout(again, 5000);
  };
}

async function again() {
  try {
    const page = await fetch("/", { redirect: "manual", cache: "no-store" });
    if (page.type === "opaqueredirect") { location.reload(); return; }
  } catch { /* the server is away: listen again */ }
  if (!document.hidden && source.readyState === EventSource.CLOSED) listen();  // a tab that was shown again listens
}

// Nobody looks at a hidden page: the server need not draw for it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else if (source?.readyState === EventSource.CLOSED) listen();
});

setInterval(told, 1000);
listen();

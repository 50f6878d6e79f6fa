"use strict";
(() => {
  // Levels from the sacrum up, as the page was written with them; L6 and T13 stand between two of them.
  const main = document.querySelector("main");
  const LEVELS = main.dataset.levels.split(" ");
  const BETWEEN = {L6: ["S1", "L5"], T13: ["L1", "T12"]};
  const panel = document.getElementById("anchors");
  const menu = document.getElementById("level-menu");
  const said = new Map();
  let chosen = null;

  const bones = film => [...film.querySelectorAll(".bone")];
  const isSacral = bone => bone.dataset.category === "sacral";

  /** Levels from one name to a neighbour further up: at least one, more over a gap. */
  function distance(lower, upper) {
    const place = name => name.startsWith("+") ? Number(name) : LEVELS.indexOf(name);
    const both = [lower, upper];
    if (both.some(name => name in BETWEEN) || lower.startsWith("+") !== upper.startsWith("+")) return 1;
    return Math.max(1, place(upper) - place(lower));
  }

  /** The level so many steps up (down where negative), or ? beyond the ends. */
  function counted(level, steps, sacral) {
    if (steps === 0) return level;
    const [below, above] = BETWEEN[level] ?? [level, level];
    const start = LEVELS.indexOf(steps > 0 ? above : below);
    let place = start + steps + (level in BETWEEN ? (steps > 0 ? -1 : 1) : 0);
    // A lumbar vertebra below L5 is L6 before anything sacral, as in vertinst measure.
    const s1 = LEVELS.indexOf("S1");
    if (steps < 0 && !sacral && start > s1 && place <= s1) {
      if (place === s1) return "L6";
      place += 1;
    }
    return LEVELS[place] ?? "?";
  }

  /** Names of all vertebrae of a film, counted from the one that was chosen. */
  function renamed(film, index, level) {
    const all = bones(film);
    const ranks = all.reduce((sums, bone, n) => {
      sums.push(n ? sums[n - 1] + distance(all[n - 1].dataset.level, bone.dataset.level) : 0);
      return sums;
    }, []);
    return all.map((bone, n) => isSacral(bone) && !isSacral(all[index]) && !level.startsWith("S")
      ? bone.dataset.level
      : counted(level, ranks[n] - ranks[index], isSacral(bone)));
  }

  function show(film) {
    const claim = said.get(film.dataset.film);
    const names = claim ? renamed(film, claim.index, claim.level) : bones(film).map(bone => bone.dataset.level);
    bones(film).forEach((bone, n) => {
      const is_anchor = Boolean(claim) && claim.index === n;
      bone.querySelector("text").textContent = names[n];
      bone.classList.toggle("anchor", is_anchor);
      bone.setAttribute("aria-label", `${names[n]}${is_anchor ? ", as you said" : ""}: say which vertebra this is`);
      const cell = film.querySelector(`[data-vertebra="${n}"]`);
      if (cell) cell.textContent = names[n];
    });
    film.classList.toggle("renamed", Boolean(claim));
    const status = film.querySelector(".naming-status");
    status.textContent = claim
      ? `Preview: ${names.filter(name => name !== "?").join(", ")}. vertinst measure counts in earnest and measures again.`
      : "";
    const films = said.size;
    panel.hidden = films === 0;
    document.getElementById("anchor-count").textContent = `${films} film${films === 1 ? "" : "s"} with an anchor`;
  }

  function say(level) {
    const film = chosen.closest(".film");
    if (level) {
      said.set(film.dataset.film, {index: bones(film).indexOf(chosen), level, x: chosen.dataset.x, y: chosen.dataset.y});
    } else {
      said.delete(film.dataset.film);
    }
    menu.close();
    show(film);
  }

  function open(bone) {
    chosen = bone;
    const film = bone.closest(".film");
    const name = bone.querySelector("text").textContent;
    document.getElementById("level-menu-title").textContent = `Which vertebra is this? It is called ${name} now.`;
    for (const button of menu.querySelectorAll("[data-say]")) {
      button.setAttribute("aria-pressed", String(button.dataset.say === name));
    }
    menu.querySelector("#forget").hidden = !said.has(film.dataset.film);
    menu.showModal();
    const box = bone.getBoundingClientRect();
    const room = [innerWidth - menu.offsetWidth - 12, innerHeight - menu.offsetHeight - 12];
    menu.style.left = `${Math.max(12, Math.min(box.right + 12, room[0]))}px`;
    menu.style.top = `${Math.max(12, Math.min(box.top, room[1]))}px`;
    (menu.querySelector('[aria-pressed="true"]') ?? menu.querySelector("[data-say]")).focus();
  }

  function save() {
    const films = [...said.keys()].sort();
    const anchors = Object.fromEntries(films.map(film => {
      const {level, x, y} = said.get(film);
      return [film, `${level}@${x},${y}`];
    }));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(anchors, null, 1) + "\n"], {type: "application/json"}));
    link.download = "anchors.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  for (const bone of document.querySelectorAll(".bone")) {
    bone.setAttribute("role", "button");
    bone.setAttribute("tabindex", "0");
    bone.addEventListener("click", () => open(bone));
    bone.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(bone);
      }
    });
  }
  for (const button of menu.querySelectorAll("[data-say]")) {
    button.addEventListener("click", () => say(button.dataset.say));
  }
  menu.querySelector("#forget").addEventListener("click", () => say(null));
  menu.querySelector("#cancel").addEventListener("click", () => menu.close());
  menu.addEventListener("click", event => { if (event.target === menu) menu.close(); });
  document.getElementById("save-anchors").addEventListener("click", save);
  document.querySelectorAll(".naming-hint").forEach(hint => { hint.hidden = false; });
  document.querySelectorAll(".film[data-film]").forEach(film => {
    if (bones(film).length) show(film);
  });
})();

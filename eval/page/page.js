"use strict";
// What the page can do beyond being read: clips play in step, tables sort and fold, light and dark switch. Without it
// everything is there, too: clips as sheets of their frames, tables whole and in their first order.
(() => {
  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // -- light and dark ---------------------------------------------------------------------------------------------

  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = make("button", { type: "button", class: "theme" });
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`);
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  dark.addEventListener("change", nameTheme);
  nameTheme();
  document.querySelector("header").append(theme);

  // -- clips --------------------------------------------------------------------------------------------------------

  // A clip is a picture of all its frames; one of them is drawn.
  const prepare = (image) => {
    const { columns, frames, observed } = image.dataset;
    const count = Number(frames), across = Number(columns);
    const width = image.naturalWidth / across, height = image.naturalHeight / Math.ceil(count / across);
    const canvas = make("canvas", { width, height, role: "img", "aria-label": image.alt });
    const context = canvas.getContext("2d");
    const show = (wanted) => {
      const frame = Math.min(wanted, count - 1);
      const left = (frame % across) * width, top = Math.floor(frame / across) * height;
      context.clearRect(0, 0, width, height);
      context.drawImage(image, left, top, width, height, 0, 0, width, height);
      canvas.dataset.frame = frame;
      if (observed) canvas.className = frame < Number(observed) ? "seen" : "ahead";
    };
    image.replaceWith(canvas);
    return { count, observed: Number(observed || 0), show };
  };

  const reduced = window.matchMedia("(prefers-reduced-motion: reduce)");

  const equip = async (player) => {
    const images = [...player.querySelectorAll("img[data-frames]")];
    await Promise.all(images.map((image) => image.decode()));
    const clips = images.map(prepare);
    const count = Math.max(...clips.map((clip) => clip.count));
    const observed = Math.max(...clips.map((clip) => clip.observed));
    const fps = Number(player.dataset.fps);
    const button = make("button", { type: "button" });
    const slider = make("input", { type: "range", min: 1, max: count, step: 1, value: 1, "aria-label": "Frame" });
    const output = make("output", {});
    const controls = make("div", { class: "controls", role: "group", "aria-label": "Player" }, button, slider, output);
    let frame = 0, playing = false, visible = true, last = 0;

    const show = (wanted) => {
      frame = (wanted + count) % count;
      for (const clip of clips) clip.show(frame);
      slider.value = frame + 1;
      const kind = observed ? (frame < observed ? ", observed" : ", predicted") : "";
      output.textContent = `${frame + 1} of ${count}${kind}`;
      slider.setAttribute("aria-valuetext", `frame ${output.textContent}`);
    };
    const tick = (now) => {
      if (!playing || !visible) return;
      if (now - last >= 1000 / fps) {
        last = now - ((now - last) % (1000 / fps));
        show(frame + 1);
      }
      requestAnimationFrame(tick);
    };
    const play = (wanted) => {
      playing = wanted && count > 1;
      button.textContent = playing ? "Pause" : "Play";
      player.dataset.playing = playing;
      last = performance.now();
      if (playing) requestAnimationFrame(tick);
    };
    button.addEventListener("click", () => play(!playing));
    slider.addEventListener("input", () => {
      play(false);
      show(slider.value - 1);
    });
    controls.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        play(false);
        show(frame + step);
      } else if (event.key === " " && event.target === slider) play(!playing);
      else return;
      event.preventDefault();
    });
    new IntersectionObserver(([entry]) => {
      if (visible !== entry.isIntersecting) {
        visible = entry.isIntersecting;
        if (visible) play(playing);
      }
    }).observe(player);
    player.prepend(controls);
    show(0);
    play(!reduced.matches);
    player.dataset.ready = "";
  };
  document.querySelectorAll(".player").forEach(equip);

  // -- tables -------------------------------------------------------------------------------------------------------

  const key = (row, column) => {
    const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || text === "–" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortable = (table) => {
    const body = table.tBodies[0], first = [...body.rows], heads = [...table.tHead.rows[0].cells];
    let rows = first, folded = false;
    const fold = Number(table.dataset.fold || 0);
    const arrange = () => {
      body.append(...rows);
      rows.forEach((row, place) => { row.hidden = folded && place >= fold });
    };
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        const way = next === "descending" ? -1 : 1;
        rows = next === "none" ? first : [...first].sort((one, two) => {
          const a = key(one, column), b = key(two, column);
          // What was not measured stays below, whichever way.
          return a === null || b === null ? (a === null) - (b === null) : way * compare(a, b);
        });
        arrange();
      });
    });
    if (fold && first.length > fold + 2) {
      folded = true;
      const more = make("button", { type: "button", "aria-expanded": "false", class: "more" });
      const name = () => { more.textContent = folded ? `Show all ${first.length} rows` : `Show ${fold} rows` };
      more.addEventListener("click", () => {
        folded = !folded;
        more.setAttribute("aria-expanded", String(!folded));
        name();
        arrange();
      });
      name();
      table.closest(".wide").after(more);
      arrange();
    }
  };
  document.querySelectorAll("table.sortable").forEach(sortable);

  // -- boxes that scroll can be reached by the keyboard, where they do scroll ----------------------------------------

  const reach = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  document.querySelectorAll(".wide, pre").forEach((box) => reach.observe(box));
})();

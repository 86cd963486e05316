/* The page: one run, one time, one part of it, one thing chosen; views that draw these. */
"use strict";

(function (Replay) {
  const WORDS_EACH_MS = 120; // How often words follow while time runs.
  const THEMES = ["auto", "light", "dark"];
  const DARK = "(prefers-color-scheme: dark)";
  const byId = (id) => document.getElementById(id);

  class App {
    constructor(run) {
      this.run = run;
      this.player = new Replay.Player(run.from, run.to);
      this.span = new Replay.Span(run.from, run.to);
      this.filter = new Replay.Filter(run);
      this.troubles = Replay.troubles(run);
      this.selection = null;
      this.view = "spacetime";
      this.palette = Replay.colours();
      this.topology = new Replay.Topology(byId("map"), this);
      this.spacetime = new Replay.Spacetime(byId("spacetime"), this);
      this.jobs = new Replay.Jobs(byId("jobs"), this);
      this.timeline = new Replay.Timeline(byId("timeline"), this);
      this.details = new Replay.Details(byId("details"), this);
      this._step = -1; // The event last stepped to.
      this._words = 0;
      this._isWaiting = false;
    }

    get chosenNode() {
      return this.selection?.type === "node" ? this.selection.index : -1;
    }

    // --- drawing ------------------------------------------------------------------------

    dirty() {
      if (this._isWaiting) return;
      this._isWaiting = true;
      requestAnimationFrame((now) => this._frame(now));
    }

    _frame(now) {
      this._isWaiting = false;
      const elapsedS = Math.min(0.25, (now - (this._last ?? now)) / 1000);
      this._last = this.player.isPlaying ? now : undefined;
      if (this.player.tick(elapsedS)) {
        this.span.follow(this.player.now);
        this._step = -1;
        if (!this.player.isPlaying) this._showPlaying();
      }
      this.topology.draw();
      if (this.view === "spacetime") this.spacetime.draw();
      if (this.view === "jobs") this.jobs.draw();
      this.timeline.draw();
      byId("clock").textContent = Replay.seconds(this.player.now, this.span.width);
      if (!this.player.isPlaying || now - this._words > WORDS_EACH_MS) {
        this._words = now;
        this.details.draw(true);
        this._drawEvents();
      }
      if (this.player.isPlaying) this.dirty();
    }

    _drawEvents() {
      if (this.view !== "events") return;
      const key = `${this.player.now} ${this.filter.version}`;
      if (this._eventsKey === key) return;
      this._eventsKey = key;
      byId("events").replaceChildren(this.details.list(this.details.around()));
    }

    redraw() {
      this.palette = Replay.colours();
      this._eventsKey = "";
      this.details.draw(false);
      this.dirty();
    }

    // --- what a viewer does -------------------------------------------------------------

    seek(at) {
      this.player.seek(at);
      this.span.follow(this.player.now);
      this._step = -1;
      this.dirty();
    }

    select(selection) {
      this.selection = selection;
      document.body.classList.toggle("chosen", selection !== null);
      this.details.draw(false);
      this.dirty();
    }

    /** Choose an event, as what it is of: a message, a job, or itself; go to its time. */
    choose(number) {
      const event = this.run.log.events[number];
      this.seek(event.at_s);
      this._step = number;
      if (event.kind === "message") {
        const index = this.run.messages.event.indexOf(number);
        if (index >= 0) return this.select({ type: "message", index });
      }
      if (event.kind === "job" && this.run.jobs.has(String(event.job))) {
        return this.select({ type: "job", index: String(event.job) });
      }
      return this.select({ type: "event", index: number });
    }

    step(by) {
      this.pause();
      const { events } = this.run.log;
      let from = this._step;
      if (from < 0) {
        // The last event until now, or the first after it, is where stepping starts.
        from = events.findLastIndex((event) => event.at_s <= this.player.now);
        if (by < 0) from += 1;
      }
      const next = Replay.nextEvent(this.run, this.filter, from, by);
      if (next >= 0) this.choose(next);
    }

    /** Go to the next time at which something went wrong, or to the last one before. */
    jump(by) {
      const { now } = this.player;
      const found = by > 0
        ? this.troubles.find((at) => at > now)
        : this.troubles.findLast((at) => at < now);
      if (found !== undefined) this.seek(found);
    }

    play() {
      this.player.toggle();
      this._showPlaying();
      this.dirty();
    }

    pause() {
      if (this.player.isPlaying) this.play();
    }

    faster(steps) {
      this.player.faster(steps);
      this._showPlaying();
      this.dirty();
    }

    zoom(factor) {
      const { now } = this.player;
      const isSeen = now >= this.span.from && now <= this.span.to;
      this.span.zoom(isSeen ? now : (this.span.from + this.span.to) / 2, factor);
      this.dirty();
    }

    showAll() {
      this.span.reset();
      this.spacetime.reset();
      this.jobs.reset();
      this.topology.reset();
    }

    showOnlyNear(onlyNear) {
      this.spacetime.onlyNear = onlyNear;
      this.dirty();
    }

    show(view) {
      this.view = view;
      for (const tab of document.querySelectorAll("[role=tab]")) {
        const isIt = tab.dataset.view === view;
        tab.setAttribute("aria-selected", String(isIt));
        byId(tab.dataset.view).hidden = !isIt;
      }
      this._eventsKey = "";
      this.dirty();
    }

    turnTheme() {
      const button = byId("theme");
      button.textContent = THEMES[(THEMES.indexOf(button.textContent) + 1) % THEMES.length];
      setTheme();
      this.redraw();
    }

    _showPlaying() {
      const { isPlaying, speed } = this.player;
      byId("play").textContent = isPlaying ? "Pause" : "Play";
      byId("play").setAttribute("aria-pressed", String(isPlaying));
      const shown = speed >= 1 ? `${Replay.count(speed)}×` : `1/${Replay.count(1 / speed)}×`;
      byId("speed").textContent = shown;
    }

    // --- the page around the drawings ---------------------------------------------------

    start() {
      document.body.classList.add("ready");
      this._fillTop();
      this._listen();
      this._showPlaying();
      this.show(this.run.messages.length === 0 && this.run.jobs.size > 0 ? "jobs" : "spacetime");
      this.redraw();
    }

    _fillTop() {
      const { about, log } = this.run;
      const name = about.name ?? about.scenario?.name;
      byId("name").textContent = name === undefined ? "A run" : Replay.short(name, 60);
      const seed = about.seed === undefined ? "" : `seed ${Replay.short(about.seed, 20)}`;
      byId("seed").textContent = seed;
      document.title = `${byId("name").textContent} ${seed}`.trim();
      const chips = [...log.counts].filter(([, count]) => count > 0).map(([kind, count]) => {
        const chip = Replay.make("button", {
          text: Replay.short(kind, 20), className: "chip",
          children: [Replay.make("span", { text: Replay.count(count) })],
          title: "Show or hide events of this kind",
        });
        chip.setAttribute("aria-pressed", "true");
        chip.addEventListener("click", () => {
          this.filter.toggle(kind);
          chip.setAttribute("aria-pressed", String(!this.filter.off.has(kind)));
          this._eventsKey = "";
          this.dirty();
        });
        return chip;
      });
      byId("kinds").replaceChildren(...chips, ...this._whats());
      byId("notices").replaceChildren(
        ...notices(this.run).map((text) => Replay.make("p", { text })),
      );
    }

    /** Return the choice of what messages are. */
    _whats() {
      const { run } = this;
      if (run.whats.length < 2) return [];
      const option = (value, text) => Replay.make("option", { value, text });
      const choice = Replay.make("select", {
        title: "Which messages",
        children: [
          option("", "all messages"),
          ...run.whatOrder.map((number) => {
            const { name, count } = run.whats[number];
            return option(String(number), `${Replay.short(name, 30)} (${Replay.count(count)})`);
          }),
        ],
      });
      choice.setAttribute("aria-label", "Which messages");
      choice.addEventListener("change", () => {
        this.filter.choose(choice.value === "" ? null : Number(choice.value));
        this._eventsKey = "";
        this.dirty();
      });
      return [choice];
    }

    _listen() {
      byId("play").addEventListener("click", () => this.play());
      byId("back").addEventListener("click", () => this.step(-1));
      byId("on").addEventListener("click", () => this.step(1));
      byId("slower").addEventListener("click", () => this.faster(-1));
      byId("faster").addEventListener("click", () => this.faster(1));
      byId("whole").addEventListener("click", () => this.showAll());
      byId("theme").addEventListener("click", () => this.turnTheme());
      for (const tab of document.querySelectorAll("[role=tab]")) {
        tab.addEventListener("click", () => this.show(tab.dataset.view));
      }
      document.addEventListener("keydown", (event) => this._key(event));
      matchMedia(DARK).addEventListener("change", () => {
        setTheme();
        this.redraw();
      });
    }

    _key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target instanceof HTMLSelectElement) return;
      const isButton = event.target instanceof HTMLButtonElement ||
        event.target instanceof HTMLInputElement;
      if (isButton && (event.key === " " || event.key === "Enter")) return;
      const tenth = this.span.width / 10;
      const shift = event.shiftKey;
      const diagram = this.view === "jobs" ? this.jobs : this.spacetime;
      const rows = (by) => {
        diagram.scrollBy(by);
        this.dirty();
      };
      const keys = {
        " ": () => this.play(),
        ArrowLeft: () => (shift ? this.seek(this.player.now - tenth) : this.step(-1)),
        ArrowRight: () => (shift ? this.seek(this.player.now + tenth) : this.step(1)),
        ArrowUp: () => rows(-60),
        ArrowDown: () => rows(60),
        Home: () => this.seek(this.run.from),
        End: () => this.seek(this.run.to),
        ",": () => this.faster(-1),
        ".": () => this.faster(1),
        "+": () => this.zoom(0.5),
        "=": () => this.zoom(0.5),
        "-": () => this.zoom(2),
        0: () => this.showAll(),
        1: () => this.show("spacetime"),
        2: () => this.show("jobs"),
        3: () => this.show("events"),
        n: () => this.jump(1),
        p: () => this.jump(-1),
        t: () => this.turnTheme(),
        Escape: () => this.select(null),
      };
      if (!Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    }
  }

  /** Return what a viewer must know of what is not shown. */
  function notices(run) {
    const { about, log } = run;
    const found = [];
    const left = about.left_out;
    if (left !== null && typeof left === "object") {
      if (left.one_of > 1) {
        found.push(
          `Only one of ${Replay.count(left.one_of)} messages, records and requests is here: ` +
          `the run has ${Replay.count(left.events)} events, and a page holds ` +
          `${Replay.count(left.limit)}.`,
        );
      }
      if (left.cut_at_s !== undefined && left.cut_at_s !== null) {
        found.push(
          `Nothing after ${Replay.seconds(Number(left.cut_at_s), 1)} is here: the run has ` +
          `${Replay.count(left.events)} events, and a page holds ${Replay.count(left.limit)}.`,
        );
      }
    }
    if (log.left > 0) {
      found.push(
        `${Replay.count(log.left)} events are not shown: a page holds ` +
        `${Replay.count(log.events.length)}. They come after those that are.`,
      );
    }
    const broken = log.broken + (Number(left?.broken) || 0);
    if (broken > 0) {
      found.push(`${Replay.count(broken)} lines are no events, and are left out.`);
    }
    if (run.nodes.length >= Replay.NODES_MAX) {
      found.push(`More nodes than the ${Replay.count(Replay.NODES_MAX)} that are shown.`);
    }
    return found;
  }

  /** Give the page the theme that is chosen, or the system's. */
  function setTheme() {
    const chosen = byId("theme").textContent;
    const system = matchMedia(DARK).matches ? "dark" : "light";
    document.documentElement.dataset.theme = chosen === "auto" ? system : chosen;
  }

  /** Show a run. */
  function open(run) {
    document.body.classList.remove("start");
    Replay.app = new App(run);
    Replay.app.start();
  }

  function fail(error) {
    byId("wrong").textContent = `This cannot be shown: ${Replay.short(error.message, 200)}`;
    document.body.classList.add("start");
  }

  /** Wait for files, where this page has no run in it. */
  function waitForFiles() {
    document.body.classList.add("start");
    byId("files").addEventListener("change", (event) => {
      if (event.target.files.length === 0) return;
      Replay.fromFiles([...event.target.files]).then(open, fail);
    });
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      if (Replay.app !== undefined) return;
      Replay.dropped(event.dataTransfer).then(Replay.fromFiles).then(open, fail);
    });
  }

  Replay.notices = notices;
  Replay.start = () => {
    setTheme();
    return Replay.embedded().then((run) => {
      if (run === null) waitForFiles();
      else open(run);
    }).catch(fail);
  };
})((globalThis.Replay ??= {}));

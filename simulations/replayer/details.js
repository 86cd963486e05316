/* Words beside the drawings: what is chosen, what the run is, what its colours mean, its events.

   Everything foreign is set as text of an element, never as markup. */
"use strict";

(function (Replay) {
  const EVENTS_SHOWN = 200;
  const NEAR_SHOWN = 30;
  const VALUE_MAX = 400;
  const COLUMN_TEXT_MAX = 15; // Of a legend in two columns.

  /** Return a new element with text and children. */
  function make(name, { text, className, children = [], ...more } = {}) {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className !== undefined) element.className = className;
    for (const [key, value] of Object.entries(more)) element[key] = value;
    element.append(...children);
    return element;
  }

  function table(pairs) {
    return make("dl", {
      children: pairs.flatMap(([name, value]) => [
        make("dt", { text: Replay.short(name, 40) }),
        value instanceof Node
          ? make("dd", { children: [value] })
          : make("dd", { text: Replay.short(value, VALUE_MAX) }),
      ]),
    });
  }

  function section(title, ...children) {
    return make("section", { children: [make("h2", { text: title }), ...children] });
  }

  function shown(value) {
    return typeof value === "string" ? value : JSON.stringify(value) ?? "";
  }

  /** Return an event as one line, with the names of its nodes. */
  function sentence(run, event) {
    const name = (value) => {
      const node = run.numberOf(value);
      return node < 0 ? shown(value) : run.nodes[node].name;
    };
    const { at_s: _at, kind, node, source, target, arrives_at_s: arrives, lost, ...more } = event;
    const parts = [];
    if (kind === "message") parts.push(`${name(source)} → ${name(target)}`);
    if (node !== undefined) parts.push(name(node));
    for (const [key, value] of Object.entries(more)) {
      if (value === null || value === "") continue;
      if (key === "size_bytes") parts.push(`${shown(value)} B`);
      else if (key === "what" || key === "state") parts.push(shown(value));
      else parts.push(`${key} ${shown(value)}`);
    }
    if (lost === true) parts.push("lost");
    else if (typeof arrives === "number") parts.push(`in ${Replay.duration(arrives - event.at_s)}`);
    return parts.join("  ");
  }

  class Details {
    constructor(panel, app) {
      this.panel = panel;
      this.app = app;
    }

    /** Show what is chosen, or the run. `soft`: only time went on. */
    draw(soft) {
      const { selection } = this.app;
      if (soft && selection?.type !== "node") return;
      const parts = { node: "_node", message: "_message", job: "_job", event: "_event" };
      this.panel.replaceChildren(
        ...(selection === null ? this._run() : this[parts[selection.type]](selection.index)),
      );
    }

    _back(title) {
      const button = make("button", { text: "×", className: "close" });
      button.title = "Back to the run (Esc)";
      button.setAttribute("aria-label", "Back to the run");
      button.addEventListener("click", () => this.app.select(null));
      return make("header", { children: [make("h1", { text: Replay.short(title, 50) }), button] });
    }

    _link(text, selection) {
      const button = make("button", { text: Replay.short(text, 40), className: "link" });
      button.addEventListener("click", () => this.app.select(selection));
      return button;
    }

    _nodeLink(node) {
      if (node < 0) return "";
      return this._link(this.app.run.nodes[node].name, { type: "node", index: node });
    }

    _time(at) {
      const text = Replay.seconds(at, this.app.run.to - this.app.run.from);
      const button = make("button", { text, className: "link", title: "Go to this time" });
      button.addEventListener("click", () => this.app.seek(at));
      return button;
    }

    _node(index) {
      const { run, player } = this.app;
      const node = run.nodes[index];
      const own = run.byNode[index];
      const before = own.findLastIndex((number) => run.log.events[number].at_s <= player.now);
      const from = Math.max(0, before - NEAR_SHOWN + 1);
      const only = make("label", { className: "check" });
      const box = make("input", { type: "checkbox", checked: this.app.spacetime.onlyNear });
      box.addEventListener("change", () => this.app.showOnlyNear(box.checked));
      only.append(box, "Rows of this node and its neighbours only");
      const jobs = [...run.rows.entries()].filter(([, row]) => row.node === index);
      const waiting = jobs.find(([, row]) => row.worker === null)?.[1];
      const pairs = [
        ["number", String(index)],
        ["state now", run.stateOf(index, player.now)],
        ["neighbours", Replay.count(run.neighbours(index).length)],
        ["events", Replay.count(own.length)],
      ];
      if (jobs.length > 0) {
        const count = waiting === undefined ? 0
          : waiting.count[Replay.countUntil(waiting.at, player.now) - 1] ?? 0;
        pairs.push(["jobs waiting", Replay.count(count)]);
        pairs.push(["workers seen", Replay.count(jobs.filter(([, row]) => row.worker).length)]);
      }
      return [
        this._back(`Node ${node.name}`),
        table(pairs),
        only,
        section("Its events until now", this.list(own.slice(from, before + 1).reverse())),
      ];
    }

    _message(index) {
      const { run } = this.app;
      const { messages } = run;
      const took = messages.until[index] - messages.sent[index];
      return [
        this._back("Message"),
        table([
          ["what", run.whats[messages.what[index]].name],
          ["from", this._nodeLink(messages.source[index])],
          ["to", this._nodeLink(messages.target[index])],
          ["sent at", this._time(messages.sent[index])],
          messages.lost[index]
            ? ["lost", "yes"]
            : ["arrives at", this._time(messages.until[index])],
          ...(messages.lost[index] ? [] : [["takes", Replay.duration(took)]]),
        ]),
        section("The event", this._fields(run.log.events[messages.event[index]])),
      ];
    }

    _job(name) {
      const { run } = this.app;
      const job = run.jobs.get(name);
      const rows = job.steps.map((step, i) => {
        const next = job.steps[i + 1];
        const where = step.worker === null ? "" : ` on ${step.worker}`;
        const lasted = next === undefined ? "" : Replay.duration(next.at - step.at);
        return make("tr", {
          children: [
            make("td", { children: [this._time(step.at)] }),
            make("td", { text: Replay.short(step.state + where, 40) }),
            make("td", { text: lasted, className: "number" }),
          ],
        });
      });
      const [first, last] = [job.steps[0], job.steps.at(-1)];
      return [
        this._back(`Job ${name}`),
        table([
          ["node", this._nodeLink(first.node)],
          ["state at the end", last.state],
          ["in all", Replay.duration(last.at - first.at)],
        ]),
        section("Its states", make("table", { children: [make("tbody", { children: rows })] })),
      ];
    }

    _event(number) {
      const event = this.app.run.log.events[number];
      const parts = [this._back(`Event: ${Replay.short(event.kind, 30)}`)];
      const node = this.app.run.byNode.findIndex((own) => own.includes(number));
      if (node >= 0) parts.push(table([["at node", this._nodeLink(node)]]));
      return [...parts, this._fields(event)];
    }

    _fields(event) {
      return table(Object.entries(event).slice(0, 40).map(([key, value]) =>
        key === "at_s" ? [key, this._time(value)] : [key, shown(value)]));
    }

    _run() {
      const { run } = this.app;
      const { about } = run;
      const pairs = [
        ["scenario", about.name ?? about.scenario?.name],
        ["seed", about.seed],
        ["trace", about.trace_hash && String(about.trace_hash).slice(0, 16)],
        ["lasts", Replay.seconds(run.to - run.from, run.to - run.from)],
        ["nodes", Replay.count(run.nodes.length)],
        ["links", Replay.count(run.links.length)],
        ["events", Replay.count(run.log.events.length)],
        ["messages", Replay.count(run.messages.length)],
        ["lost", Replay.count(run.messages.lost.filter((lost) => lost).length)],
        ["jobs", Replay.count(run.jobs.size)],
        ["faults", Replay.count(run.faults.length)],
        ["broken invariants", Replay.count(run.checks.length)],
      ].filter(([, value]) => value !== undefined && value !== null);
      const parts = [make("header", { children: [make("h1", { text: "This run" })] })];
      return [...parts, table(pairs), ...this._notices(), ...this._legend(), this._keys()];
    }

    _notices() {
      const { log } = this.app.run;
      if (log.firstBroken.length === 0) return [];
      const items = log.firstBroken.map(({ line, why, text }) => make("li", {
        children: [
          make("b", { text: `Line ${line}: ${why}` }),
          make("code", { text: Replay.short(text, 120) }),
        ],
      }));
      const list = make("ul", { className: "broken", children: items });
      return [section("Lines that are no events", list)];
    }

    _legend() {
      const { run, palette } = this.app;
      const swatch = (colour, text, className = "dot") => {
        const mark = make("i", { className });
        mark.style.setProperty("--mark", colour);
        return make("li", { children: [mark, Replay.short(text, 34)] });
      };
      const list = (...children) => {
        const isLong = children.some((child) => child.textContent.length > COLUMN_TEXT_MAX);
        return make("ul", { className: isLong ? "legend long" : "legend", children });
      };
      const states = Replay.KNOWN_STATES.map((state) =>
        swatch(Replay.stateColour(palette, state), state, state === "down" ? "hollow" : "dot"));
      const shownWhats = run.whatOrder.slice(0, Replay.WHAT_COLOURS - 1).map((number, place) =>
        swatch(Replay.whatColour(palette, place), run.whats[number].name, "stroke"));
      const rest = run.whats.length - shownWhats.length;
      if (rest > 0) {
        const colour = Replay.whatColour(palette, Replay.WHAT_COLOURS - 1);
        shownWhats.push(swatch(colour, `${rest} more`, "stroke"));
      }
      shownWhats.push(swatch(palette.bad, "lost", "stroke"));
      shownWhats.push(swatch(palette.warn, "fault", "stroke"));
      const parts = [section("Nodes", list(...states)), section("Messages", list(...shownWhats))];
      if (run.jobs.size > 0) {
        const jobs = Replay.JOB_STATES.map((state) => swatch(palette.jobs[state], state, "bar"));
        parts.push(section("Jobs", list(...jobs)));
      }
      return parts;
    }

    _keys() {
      const keys = [
        ["space", "play, pause"],
        ["← →", "event before, after"],
        ["⇧← ⇧→", "a tenth of the view"],
        [", .", "slower, faster"],
        ["+ −", "zoom in time"],
        ["0", "show everything"],
        ["↑ ↓", "scroll the rows"],
        ["n p", "next, last trouble"],
        ["1 2 3", "diagram, jobs, events"],
        ["t", "light, dark"],
        ["Esc", "choose nothing"],
      ];
      return section("Keys", make("dl", {
        className: "keys",
        children: keys.flatMap(([key, does]) => [
          make("dt", { children: [make("kbd", { text: key })] }), make("dd", { text: does }),
        ]),
      }));
    }

    /** Return a list of events by number, each a button. */
    list(numbers) {
      const { run } = this.app;
      if (numbers.length === 0) return make("p", { className: "none", text: "None." });
      return make("ol", {
        className: "events",
        children: numbers.map((number) => {
          const event = run.log.events[number];
          const button = make("button", {
            children: [
              make("time", { text: Replay.seconds(event.at_s, run.to - run.from) }),
              make("b", { text: Replay.short(event.kind, 16) }),
              make("span", { text: Replay.short(sentence(run, event), 160) }),
            ],
          });
          button.addEventListener("click", () => this.app.choose(number));
          return make("li", { children: [button] });
        }),
      });
    }

    /** Return the numbers of the events around now that pass the filter. */
    around() {
      const { run, player, filter } = this.app;
      const { events } = run.log;
      const found = [];
      let low = 0;
      let high = events.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (events[middle].at_s <= player.now) low = middle + 1;
        else high = middle;
      }
      for (let i = low - 1; i >= 0 && found.length < EVENTS_SHOWN; i -= 1) {
        if (filter.has(events[i])) found.push(i);
      }
      return found;
    }
  }

  Object.assign(Replay, { Details, make });
})((globalThis.Replay ??= {}));

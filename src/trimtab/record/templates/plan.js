// Moves the sliders of a plan: the same arithmetic as record/plan_what_if.py, at other places. Texts are set as texts, never as markup.
(() => {
  const grid = JSON.parse(document.getElementById("grid").textContent);
  if (!grid || !grid.rows.length) return;
  const signed = (value, digits = 3) => {
    if (!value) return "0";
    const size = Math.floor(Math.log10(Math.abs(value)));
    const places = Math.max(0, digits - 1 - size);
    return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  };
  const money = usd => usd >= 999500 ? `$${signed(usd / 1e6)}M` : usd >= 9995 ? `$${signed(usd / 1e3)}k` : usd >= 100 ? `$${Math.round(usd)}` : `$${usd.toFixed(2)}`;
  const time = s => s < 120 ? `${signed(s)} s` : s < 7200 ? `${signed(s / 60)} min` : s < 172800 ? `${signed(s / 3600)} h` : s < 63072000 ? `${signed(s / 86400)} days` : `${signed(s / 31557600)} years`;
  const many = n => n >= 1e12 ? `${signed(n / 1e12)}T` : n >= 1e9 ? `${signed(n / 1e9)}B` : n >= 1e6 ? `${signed(n / 1e6)}M` : Math.round(n).toLocaleString("en");
  const bytes = b => b >= 1e9 ? `${signed(b / 1e9)} GB` : `${signed(b / 1e6)} MB`;
  const priced = grid.rows.some(row => row.usd_per_device_hour);
  const price = { name: "price", start: 0, low: -2, high: 2, show: at => `${signed(2 ** at)} × the listed price`, value: at => 2 ** at };
  const around = (name, middle, show) => ({ name, start: 0, low: -1.5, high: 1.5, value: at => middle * 10 ** at, show: at => show(middle * 10 ** at) });
  const kinds = {
    train: {
      knobs: [around("tokens", grid.tokens, many), ...(priced ? [price] : [])],
      heads: ["option", "time", "cost"],
      row: (row, [tokens, factor]) => {
        const seconds = tokens / row.tok_s;
        return [time(seconds), row.usd_per_device_hour ? money(seconds / 3600 * row.n_devices * row.usd_per_device_hour * factor) : "no price"];
      },
    },
    serve: {
      knobs: [around("requests a second", grid.rate, signed), ...(priced ? [price] : [])],
      heads: ["option", "replicas", "cost an hour", "cost of 1,000 requests"],
      row: (row, [rate, factor]) => {
        const replicas = Math.max(1, Math.ceil(rate / row.req_s - 1e-9));
        const usd = row.usd_per_device_hour ? replicas * row.n_devices * row.usd_per_device_hour * factor : null;
        return [replicas.toLocaleString("en"), usd === null ? "no price" : money(usd), usd === null ? "no price" : money(usd / 3.6 / rate)];
      },
    },
    fit: {
      knobs: [
        { name: "context", start: Math.log2(Math.min(32768, grid.context_tokens || 32768)), low: 9, high: Math.log2(grid.context_tokens || 131072), value: at => Math.round(2 ** at), show: at => `${Math.round(2 ** at).toLocaleString("en")} tokens` },
        { name: "at once", start: 0, low: 0, high: 8, value: at => Math.round(2 ** at), show: at => String(Math.round(2 ** at)) },
      ],
      heads: ["option", "memory", "fits"],
      row: (row, [context, atOnce]) => {
        const cache = atOnce * (row.sequence_bytes + row.token_bytes * context);
        return [`${bytes(row.fixed_bytes + cache)} of ${bytes(grid.capacity_bytes)}`, cache <= row.room_bytes ? "fits" : "does not fit"];
      },
    },
  };
  const kind = kinds[grid.kind];
  if (!kind) return;
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const inputs = kind.knobs.map((knob, place) => {
    const label = make("label", ""), shown = make("output", knob.show(knob.start), { for: `knob-${place}` });
    const step = (knob.high - knob.low) / 200;
    const input = make("input", "", { type: "range", min: knob.low, max: knob.high, step, id: `knob-${place}` });
    input.value = knob.start;
    label.append(make("span", knob.name), shown, input);
    input.setAttribute("aria-valuetext", knob.show(knob.start));
    input.addEventListener("input", () => {
      shown.textContent = knob.show(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
      draw();
    });
    document.getElementById("knobs").append(label);
    return input;
  });
  const head = make("tr", "");
  for (const title of kind.heads) head.append(make("th", title, { scope: "col" }));
  document.getElementById("live-head").append(head);
  const draw = () => {
    const values = kind.knobs.map((knob, place) => knob.value(Number(inputs[place].value)));
    document.getElementById("live-rows").replaceChildren(...grid.rows.map(row => {
      const line = make("tr", "");
      const name = make("th", row.name, { scope: "row" });
      if (row.how) name.append(make("small", row.how));
      line.append(name);
      for (const text of kind.row(row, values.length < 2 ? [...values, 1] : values)) {
        line.append(make("td", text, text === "fits" ? { class: "fits" } : text === "does not fit" ? { class: "fits-not" } : {}));
      }
      return line;
    }));
  };
  document.getElementById("live-note").textContent = "Moved by the same arithmetic as the table below; speeds stay those of the plan.";
  document.getElementById("live").hidden = false;
  draw();
})();

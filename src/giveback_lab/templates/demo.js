(() => {
  const run = JSON.parse(document.getElementById("samples").textContent);
  const readout = document.querySelector(".readout");
  const charts = [...document.querySelectorAll("svg[data-plot]")];
  if (!readout || !run.some((vm) => vm.t_s.length)) return;
  const hint = "Point at the chart, or use the arrow keys on it, to read the values.";
  readout.textContent = hint;
  const nearest = (times, t) => {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] < t) low = middle + 1; else high = middle;
    }
    return low > 0 && t - times[low - 1] < times[low] - t ? low - 1 : low;
  };
  const tell = (t) => {
    readout.textContent = `${Math.round(t)} s`;
    for (const vm of run) {
      if (!vm.t_s.length) continue;
      const i = nearest(vm.t_s, t), value = document.createElement("b");
      value.className = vm.name;
      const idle = vm.residue_mib[i];
      value.textContent = `${vm.name} ${vm.resident_mib[i]} MiB` +
        (idle === null ? "" : `, ${Math.max(0, idle)} of it free, still held`);
      readout.append(value);
    }
  };
  for (const chart of charts) {
    const [x, y, width, height] = chart.dataset.plot.split(" ").map(Number);
    const [start, end] = chart.dataset.span.split(" ").map(Number);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("visibility", "hidden");
    line.setAttribute("y1", y);
    line.setAttribute("y2", y + height);
    chart.append(line);
    chart.setAttribute("tabindex", "0");
    let now = end;
    const show = (t) => {
      now = Math.min(end, Math.max(start, t));
      const at = x + width * (now - start) / (end - start);
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
      line.setAttribute("visibility", "visible");
      tell(now);
    };
    const hide = () => {
      line.setAttribute("visibility", "hidden");
      readout.textContent = hint;
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const at = (event.clientX - box.left) * chart.viewBox.baseVal.width / box.width;
      show(start + (end - start) * (at - x) / width);
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(now + step * (event.shiftKey ? 10 : 1));
    });
  }
})();

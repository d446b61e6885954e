/* What a report does in a browser: name points of the landscape, find their lines, turn crystals.
   Names from files reach this code as data and the page as text, never as markup. */
(function () {
  "use strict";

  const data = JSON.parse(document.getElementById("report-data").textContent);

  function landscape(points) {
    const svg = document.querySelector("svg.landscape");
    if (!svg || !points.rank) {
      return;
    }
    const mark = svg.querySelector(".mark");
    const tip = document.getElementById("tip");
    const said = document.getElementById("said");
    const rows = new Map();
    document.querySelectorAll("tr[data-id]").forEach((row) => rows.set(row.dataset.id, row));
    const kept = new Map();
    points.id.forEach((_, i) => {
      if (points.kept[i]) {
        kept.set(points.cluster[i], i);
      }
    });
    let current = -1;

    function words(i) {
      const parts = [
        "Rank " + (points.rank[i] === null ? "none" : points.rank[i]), points.id[i],
        points.energy[i].toFixed(2) + " kJ/mol" +
          (points.lattice[i] === null ? "" : " (lattice energy " + points.lattice[i].toFixed(1) + ")"),
        points.density[i].toFixed(3) + " g/cm³, " + points.group[i],
        points.kept[i] ? "found " + points.found[i] + (points.found[i] === 1 ? " time" : " times")
          : "duplicate, cluster " + points.cluster[i]
      ];
      if (points.match[i]) {
        parts.push("match: " + points.match[i]);
      }
      return parts;
    }

    function show(i) {
      current = i;
      if (i < 0) {
        tip.hidden = true;
        mark.setAttribute("visibility", "hidden");
        return;
      }
      mark.setAttribute("cx", points.x[i]);
      mark.setAttribute("cy", points.y[i]);
      mark.setAttribute("visibility", "visible");
      tip.replaceChildren(...words(i).map((text, k) => {
        const line = document.createElement(k ? "div" : "b");
        line.textContent = text;
        return line;
      }));
      tip.hidden = false;
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const x = points.x[i] * scale, y = points.y[i] * scale;
      tip.style.left = Math.max(0, Math.min(x + 14, box.width - tip.offsetWidth)) + "px";
      const above = y - tip.offsetHeight - 14;
      tip.style.top = (above >= 0 ? above : y + 16) + "px";
    }

    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = -1, least = 18 * 18;
      for (let i = 0; i < points.x.length; i++) {
        /* Of points that lie on each other, the one that is no duplicate. */
        const apart = (points.x[i] - x) ** 2 + (points.y[i] - y) ** 2 + (points.kept[i] ? 0 : 0.5);
        if (apart < least) {
          least = apart;
          best = i;
        }
      }
      return best;
    }

    function choose(i) {
      document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
      if (i < 0) {
        said.textContent = "";
        return;
      }
      let row = rows.get(points.id[i]);
      let note = "";
      if (!row && !points.kept[i] && kept.has(points.cluster[i])) {
        row = rows.get(points.id[kept.get(points.cluster[i])]);
        note = row ? points.id[i] + " is a duplicate of the line that is marked." : "";
      }
      if (row) {
        row.classList.add("chosen");
        row.scrollIntoView({ block: "center", behavior: "smooth" });
      } else {
        note = words(i).join(", ") + ". It is not in the table above; ranked.csv has it.";
      }
      said.textContent = note;
    }

    svg.addEventListener("pointermove", (event) => show(nearest(event)));
    svg.addEventListener("pointerleave", () => show(-1));
    svg.addEventListener("click", (event) => choose(nearest(event)));
    svg.addEventListener("keydown", (event) => {
      const last = points.x.length - 1;
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (steps[event.key]) {
        show(Math.max(0, Math.min(last, current + steps[event.key])));
      } else if (event.key === "Home" || event.key === "End") {
        show(event.key === "Home" ? 0 : last);
      } else if (event.key === "Enter" && current >= 0) {
        choose(current);
      } else if (event.key === "Escape") {
        show(-1);
        choose(-1);
      } else {
        return;
      }
      event.preventDefault();
    });
    document.querySelectorAll("a.to-point").forEach((link) => link.addEventListener("click", () => {
      const i = points.id.indexOf(link.closest("tr").dataset.id);
      choose(-1);
      show(i);
    }));
  }

  /* Element colours that can be told apart on white and on near-black. */
  const COLOURS = {
    H: "#c3cad1", B: "#d98b6a", C: "#7d868f", N: "#3f6fe0", O: "#e03b3b", F: "#3fae49",
    Si: "#c2a05a", P: "#e0852a", S: "#c9a800", Cl: "#2aa84a", As: "#9a62c7", Se: "#d18f00",
    Br: "#a84a3a", I: "#8a4fbf"
  };

  function css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function point(xyz) {
    return { x: xyz[0], y: xyz[1], z: xyz[2] };
  }

  function atoms(view) {
    const bonds = view.elements.map(() => []);
    view.bonds.forEach(([i, j]) => {
      bonds[i].push(j);
      bonds[j].push(i);
    });
    return view.elements.map((elem, i) => Object.assign(point(view.positions[i]), {
      elem: elem, serial: i, index: i, bonds: bonds[i], bondOrder: bonds[i].map(() => 1),
      properties: {}
    }));
  }

  function paint(viewer, view) {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    viewer.setBackgroundColor(css("--panel"));
    viewer.addModel().addAtoms(atoms(view));
    const colour = { colorscheme: { prop: "elem", map: COLOURS } };
    viewer.setStyle({}, {
      stick: Object.assign({ radius: 0.12 }, colour), sphere: Object.assign({ scale: 0.22 }, colour)
    });
    view.edges.forEach(([a, b]) => viewer.addLine({ start: point(a), end: point(b), color: css("--faint") }));
    view.axes.forEach((at, k) => viewer.addLabel("abc"[k], {
      position: point(at), fontColor: css("--text"), backgroundOpacity: 0, fontSize: 14,
      alignment: "center", inFront: true
    }));
    viewer.render();
  }

  function turnable(figure, view) {
    const element = figure.querySelector(".viewer");
    figure.classList.add("live");
    try {
      /* Turning the page's wheel over a crystal scrolls the page; with Ctrl it zooms. */
      element.addEventListener("wheel", (event) => event.ctrlKey || event.stopPropagation(), true);
      const viewer = $3Dmol.createViewer(element, { antialias: true });
      paint(viewer, view);
      viewer.rotate(-70, "x");
      viewer.rotate(12, "y");
      viewer.zoomTo();
      viewer.zoom(0.82); /* room for the corners of the cell, which zoomTo does not know */
      viewer.render();
      new ResizeObserver(() => viewer.resize()).observe(element);
      window.matchMedia("(prefers-color-scheme: dark)")
        .addEventListener("change", () => paint(viewer, view));
      element.addEventListener("keydown", (event) => {
        const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
        if (turns[event.key]) {
          viewer.rotate(turns[event.key][0], turns[event.key][1]);
        } else if (event.key === "+" || event.key === "=" || event.key === "-") {
          viewer.zoom(event.key === "-" ? 1 / 1.15 : 1.15);
        } else {
          return;
        }
        event.preventDefault();
        viewer.render();
      });
      element.dataset.atoms = viewer.selectedAtoms({}).length;
    } catch (error) {
      figure.classList.remove("live"); /* no WebGL here: the flat picture stays */
    }
  }

  function crystals(views) {
    const figures = document.querySelectorAll("figure[data-view]");
    if (!figures.length || typeof $3Dmol === "undefined") {
      return;
    }
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting) {
        seen.unobserve(entry.target);
        turnable(entry.target, views[Number(entry.target.dataset.view)]);
      }
    }), { rootMargin: "200px" });
    figures.forEach((figure) => seen.observe(figure));
  }

  landscape(data.points);
  crystals(data.views);
})();

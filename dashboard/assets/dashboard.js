/* What the browser does itself: the theme, the menu, the structures in 3D.
   Names from files reach this code as data and the page as text, never as markup. */
(function () {
  "use strict";

  const root = document.documentElement;
  const KEY = "packflow-theme";

  function remembered() {
    try {
      return window.localStorage.getItem(KEY);
    } catch (error) {
      return null; /* storage may be forbidden */
    }
  }

  function preferred() {
    const dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
    return dark ? "dark" : "light";
  }

  root.dataset.theme = remembered() || preferred();

  const viewers = {};
  const OVERLAY = { candidate: "#2e8fd0", reference: "#e69f00" };

  /* Element colours that can be told apart on white and on near-black. */
  const COLOURS = {
    H: "#c3cad1", B: "#d98b6a", C: "#7d868f", N: "#3f6fe0", O: "#e03b3b", F: "#3fae49",
    Si: "#c2a05a", P: "#e0852a", S: "#c9a800", Cl: "#2aa84a", As: "#9a62c7", Se: "#d18f00",
    Br: "#a84a3a", I: "#8a4fbf"
  };

  function css(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function make(element) {
    const viewer = $3Dmol.createViewer(element, { backgroundColor: css("--panel"), antialias: true });
    new ResizeObserver(() => viewer.resize()).observe(element);
    element.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
      if (turns[event.key]) {
        viewer.rotate(turns[event.key][0], turns[event.key][1]);
      } else if (event.key === "+" || event.key === "=") {
        viewer.zoom(1.15);
      } else if (event.key === "-") {
        viewer.zoom(1 / 1.15);
      } else {
        return;
      }
      event.preventDefault();
      viewer.render();
    });
    return viewer;
  }

  /* A page that was left keeps no drawing context: browsers allow few of them. */
  function release(element) {
    element.querySelectorAll("canvas").forEach((canvas) => {
      const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
      const extension = context && context.getExtension("WEBGL_lose_context");
      if (extension) {
        extension.loseContext();
      }
    });
  }

  function atomsOf(model) {
    const neighbours = model.elements.map(() => []);
    model.bonds.forEach(([i, j]) => {
      neighbours[i].push(j);
      neighbours[j].push(i);
    });
    return model.elements.map((elem, i) => ({
      elem: elem, serial: i, index: i,
      x: model.positions[i][0], y: model.positions[i][1], z: model.positions[i][2],
      bonds: neighbours[i], bondOrder: neighbours[i].map(() => 1),
      properties: {}
    }));
  }

  function point(xyz) {
    return { x: xyz[0], y: xyz[1], z: xyz[2] };
  }

  function paint(viewer, scene) {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    viewer.setBackgroundColor(css("--panel"));
    const line = css("--faint");
    scene.models.forEach((model) => {
      const made = viewer.addModel();
      made.addAtoms(atomsOf(model));
      const colour = model.colour ? { color: OVERLAY[model.colour] } : { colorscheme: { prop: "elem", map: COLOURS } };
      made.setStyle({}, {
        stick: Object.assign({ radius: 0.12 }, colour),
        sphere: Object.assign({ scale: model.colour ? 0.14 : 0.22 }, colour)
      });
    });
    scene.edges.forEach(([a, b]) => viewer.addLine({ start: point(a), end: point(b), color: line }));
    scene.axes.forEach((axis) => viewer.addLabel(axis.label, {
      position: point(axis.at), fontColor: css("--text"), backgroundOpacity: 0, fontSize: 14,
      alignment: "center", inFront: true
    }));
  }

  function draw(scene) {
    if (!scene) {
      return window.dash_clientside.no_update;
    }
    const element = document.getElementById(scene.viewer);
    if (!element) {
      return "";
    }
    try {
      let known = viewers[scene.viewer];
      if (!known || known.element !== element) {
        if (known) {
          release(known.element);
        }
        known = { element: element, viewer: make(element), key: null };
        viewers[scene.viewer] = known;
      }
      paint(known.viewer, scene);
      const key = [scene.id, scene.models.length, scene.atoms].join(" ");
      if (known.key !== key) {
        known.viewer.zoomTo();
        known.key = key;
      }
      known.viewer.render();
      known.scene = scene;
      element.dataset.candidate = scene.id;
      element.dataset.atoms = known.viewer.selectedAtoms({}).length;
    } catch (error) {
      return "The browser cannot draw in 3D (" + error.message + "). " + scene.note;
    }
    return scene.note;
  }

  function theme(clicks) {
    if (clicks) {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        window.localStorage.setItem(KEY, root.dataset.theme);
      } catch (error) {
        /* the choice holds for this page alone then */
      }
    }
    return root.dataset.theme;
  }

  function menu(path) {
    document.querySelectorAll("#menu a").forEach((link) => {
      if (link.getAttribute("href") === path) {
        link.setAttribute("aria-current", "page");
      } else {
        link.removeAttribute("aria-current");
      }
    });
    return path;
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    packflow: { draw: draw, theme: theme, menu: menu }
  });
})();

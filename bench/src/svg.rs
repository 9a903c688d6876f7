//! Charts as SVG. A chart brings its own background and its own colours for light and dark pages, because a page that
//! shows it as a picture cannot style it. What the marks look like is in `bars` and `lines`.

mod axis;
mod bars;
mod lines;

use std::fmt::Write;

pub use bars::{Bar, Panel};
pub use lines::{Line, Plot};

/// Whose a mark is, which chooses its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine's limit.
    Limit,
    /// fltport.
    Ours,
    /// Somebody else who spins.
    Spins,
    /// Somebody else who parks.
    Parks,
}

/// A value with its interval.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// The median.
    pub value: f64,
    /// The lower end of its interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above everything.
    pub title: String,
    /// Below that: how it was measured.
    pub notes: Vec<String>,
    /// What is measured, with its unit.
    pub axis: String,
    /// What is drawn.
    pub body: Body,
}

/// The marks of a picture.
#[derive(Clone, Debug)]
pub enum Body {
    /// Bars that start at zero, or points on a logarithmic axis.
    Bars {
        /// Under headings.
        panels: Vec<Panel>,
        /// Tenfold steps instead of equal ones; a length means nothing there, so there are points.
        logarithmic: bool,
    },
    /// Lines over a few places.
    Lines(Vec<Plot>),
}

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;

const STYLE: &str = "<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 16px; font-weight: 600 }
.heading { font-weight: 600 } .label { fill: #59636e } .back { fill: #ffffff } .grid { stroke: #d1d9e0 }
.whisker { stroke: #1f2328; stroke-width: 1.3; fill: none }
.limit.whisker, .ours.whisker, .spins.whisker, .parks.whisker { stroke: currentColor }
.limit { color: #6e7781 } .ours { color: #0969da } .spins { color: #bc4c00 } .parks { color: #8250df }
.mark { fill: currentColor } .name { fill: currentColor } .line { fill: none; stroke: currentColor; stroke-width: 1.5 }
.ours.line { stroke-width: 3 } .ours.name { font-weight: 600 } .dashed { stroke-dasharray: 7 4 }
.lead { stroke: currentColor; stroke-width: 0.7; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .label { fill: #9198a1 } .back { fill: #0d1117 } .grid { stroke: #30363d } .whisker { stroke: #f0f6fc }
.limit { color: #848d97 } .ours { color: #4493f8 } .spins { color: #f0883e } .parks { color: #ab7df8 }
.mark { fill: currentColor } .name { fill: currentColor } }
</style>
";

const KINDS: [(Kind, &str, &str); 4] = [
    (Kind::Limit, "limit", "limit of the machine"),
    (Kind::Ours, "ours", "fltport"),
    (Kind::Spins, "spins", "others, spinning"),
    (Kind::Parks, "parks", "others, parking"),
];

impl Kind {
    fn class(self) -> &'static str {
        let found = KINDS.iter().find(|(kind, _, _)| *kind == self);
        found.map_or("", |(_, class, _)| class)
    }
}

/// Draws it.
pub fn draw(chart: &Chart) -> String {
    let notes = 18.0 * chart.notes.len() as f64;
    let top = 46.0 + notes + 24.0;
    let (mut marks, mut kinds) = (String::new(), Vec::new());
    let bottom = match &chart.body {
        Body::Bars {
            panels,
            logarithmic,
        } => {
            kinds.extend(
                panels
                    .iter()
                    .flat_map(|panel| &panel.bars)
                    .map(|bar| bar.kind),
            );
            bars::draw(&mut marks, panels, *logarithmic, &chart.axis, top)
        }
        Body::Lines(plots) => {
            kinds.extend(
                plots
                    .iter()
                    .flat_map(|plot| &plot.lines)
                    .map(|line| line.kind),
            );
            lines::draw(&mut marks, plots, &chart.axis, top)
        }
    };
    let height = bottom + 12.0;
    let mut out = String::new();
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n{STYLE}<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n",
            escaped(&chart.title)
        ),
    );
    text(&mut out, "title", "start", (MARGIN, 28.0), &chart.title);
    let mut y = 48.0;
    for note in &chart.notes {
        text(&mut out, "label", "start", (MARGIN, y), note);
        y += 18.0;
    }
    legend(&mut out, &kinds, top - 16.0);
    out.push_str(&marks);
    out.push_str("</svg>\n");
    out
}

/// Names the colours that occur.
fn legend(out: &mut String, kinds: &[Kind], y: f64) {
    let mut x = MARGIN;
    for (kind, class, name) in KINDS {
        if !kinds.contains(&kind) {
            continue;
        }
        put(
            out,
            format_args!(
                "<rect class=\"{class} mark\" x=\"{x:.0}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\"/>\n",
                y - 9.0
            ),
        );
        text(out, "label", "start", (x + 15.0, y), name);
        x += 36.0 + 7.0 * name.len() as f64;
    }
    put(
        out,
        format_args!(
            "<path class=\"whisker\" d=\"M{x:.0} {0}h22m-22 -4v8m22 -8v8\"/>\n",
            y - 4.0
        ),
    );
    text(
        out,
        "label",
        "start",
        (x + 29.0, y),
        "interval of the median",
    );
}

fn text(out: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), words: &str) {
    let words = escaped(words);
    put(
        out,
        format_args!(
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>\n"
        ),
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes whatever is written.
    out.write_fmt(what).ok();
}

#[cfg(test)]
mod tests {
    use super::{Bar, Body, Chart, Kind, Line, Mark, Panel, Plot, draw};

    const MARK: Mark = Mark {
        value: 2.0,
        low: 1.0,
        high: 3.0,
    };

    fn chart(body: Body) -> String {
        draw(&Chart {
            title: "T < U".to_owned(),
            notes: vec!["n".to_owned()],
            axis: "µs".to_owned(),
            body,
        })
    }

    #[test]
    fn bars_have_whiskers_and_text_is_escaped() {
        for logarithmic in [false, true] {
            let bar = Bar {
                label: "a < b".to_owned(),
                mark: MARK,
                text: "2 µs".to_owned(),
                kind: Kind::Ours,
            };
            let panel = Panel {
                heading: "p".to_owned(),
                bars: vec![bar],
            };
            let text = chart(Body::Bars {
                panels: vec![panel],
                logarithmic,
            });
            assert!(text.contains("a &lt; b") && text.contains("T &lt; U"));
            // One in the legend.
            assert_eq!(text.matches("class=\"whisker\"").count(), 2);
        }
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_was_measured() {
        let line = Line {
            label: "l".to_owned(),
            kind: Kind::Parks,
            dashed: true,
            marks: vec![Some(MARK), None, Some(MARK)],
        };
        let plot = Plot {
            heading: "p".to_owned(),
            across: "x".to_owned(),
            places: ["1", "2", "3"].map(str::to_owned).to_vec(),
            lines: vec![line],
        };
        let text = chart(Body::Lines(vec![plot]));
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        let bars = chart(Body::Bars {
            panels: Vec::new(),
            logarithmic: true,
        });
        assert!(bars.ends_with("</svg>\n"));
        assert!(chart(Body::Lines(Vec::new())).ends_with("</svg>\n"));
    }
}

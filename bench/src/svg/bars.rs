//! Bars, one below the other, under headings.

use super::axis::{Axis, plain};
use super::{Kind, MARGIN, Mark, put, text};

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// How long it is.
    pub mark: Mark,
    /// The value in words.
    pub text: String,
    /// Its colour.
    pub kind: Kind,
}

/// Bars under a heading.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Above them.
    pub heading: String,
    /// From the best to the worst.
    pub bars: Vec<Bar>,
}

/// Where bars start.
const LEFT: f64 = 250.0;
/// How long the longest one is; its value stands to the right.
const LENGTH: f64 = 510.0;
const LINE: f64 = 21.0;
const HEADING: f64 = 32.0;

/// Draws them all on one axis, from `top` on; gives where they end.
pub fn draw(out: &mut String, panels: &[Panel], logarithmic: bool, name: &str, top: f64) -> f64 {
    let bars = || panels.iter().flat_map(|panel| &panel.bars);
    let marks: Vec<Mark> = bars().map(|bar| bar.mark).collect();
    let axis = Axis::of(&marks, logarithmic);
    let bottom = top + HEADING * panels.len() as f64 + LINE * bars().count() as f64 + 6.0;
    for value in axis.steps() {
        let x = LEFT + LENGTH * axis.share(value);
        put(
            out,
            format_args!("<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>\n"),
        );
        text(out, "label", "middle", (x, bottom + 16.0), &plain(value));
    }
    let mut y = top;
    for panel in panels {
        y += HEADING;
        text(out, "heading", "start", (MARGIN, y - 9.0), &panel.heading);
        for bar in &panel.bars {
            one(out, bar, &axis, logarithmic, y);
            y += LINE;
        }
    }
    let middle = LEFT + LENGTH / 2.0;
    text(out, "label", "middle", (middle, bottom + 36.0), name);
    bottom + 40.0
}

fn one(out: &mut String, bar: &Bar, axis: &Axis, logarithmic: bool, y: f64) {
    let at = |value: f64| LEFT + LENGTH * axis.share(value);
    let (class, middle) = (bar.kind.class(), y + LINE / 2.0);
    let [low, x, high] = [bar.mark.low, bar.mark.value, bar.mark.high].map(at);
    text(out, "", "end", (LEFT - 8.0, middle + 4.5), &bar.label);
    if logarithmic {
        put(
            out,
            format_args!(
                "<circle class=\"{class} mark\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"5.5\"/>\n"
            ),
        );
    } else {
        put(
            out,
            format_args!(
                "<rect class=\"{class} mark\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\"/>\n",
                middle - 7.0,
                x - LEFT
            ),
        );
    }
    // An end outside the axis has no stroke across.
    let end = |value: f64, x: f64| match axis.holds(value) {
        true => format!("M{x:.1} {:.1}v8", middle - 4.0),
        false => String::new(),
    };
    put(
        out,
        format_args!(
            "<path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}{}{}\"/>\n",
            end(bar.mark.low, low),
            end(bar.mark.high, high)
        ),
    );
    let after = x.max(high) + 8.0;
    text(out, "", "start", (after, middle + 4.5), &bar.text);
}

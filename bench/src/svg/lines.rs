//! Lines over a few places, on a logarithmic axis, each with its name at its end.

use super::axis::{Axis, plain};
use super::{Kind, MARGIN, Mark, put, text};

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it is.
    pub label: String,
    /// Its colour.
    pub kind: Kind,
    /// It is the second one of its kind.
    pub dashed: bool,
    /// For each place; nothing where nothing was measured.
    pub marks: Vec<Option<Mark>>,
}

/// Lines over the same places.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Above them.
    pub heading: String,
    /// What the places are.
    pub across: String,
    /// From left to right.
    pub places: Vec<String>,
    /// In any order.
    pub lines: Vec<Line>,
}

const LEFT: f64 = 78.0;
/// Names stand to the right of it.
const LENGTH: f64 = 530.0;
/// From the ends of the axis to the first and the last place.
const INSET: f64 = 24.0;
const HEIGHT: f64 = 280.0;
const HEADING: f64 = 32.0;
/// From one name to the next.
const LINE: f64 = 16.0;
/// From one line's points to the next one's at the same place.
const APART: f64 = 2.5;

/// Draws them one below the other, each on an axis of its own, from `top` on; gives where they end.
pub fn draw(out: &mut String, plots: &[Plot], axis: &str, top: f64) -> f64 {
    let mut y = top;
    for plot in plots {
        text(out, "heading", "start", (MARGIN, y + 20.0), &plot.heading);
        y = one(out, plot, axis, y + HEADING) + 10.0;
    }
    y
}

fn one(out: &mut String, plot: &Plot, name: &str, top: f64) -> f64 {
    let marks: Vec<Mark> = plot
        .lines
        .iter()
        .flat_map(|line| line.marks.iter().flatten().copied())
        .collect();
    let axis = Axis::of(&marks, true);
    let bottom = top + HEIGHT;
    for value in axis.steps() {
        let y = bottom - HEIGHT * axis.share(value);
        put(
            out,
            format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}h{LENGTH}\"/>\n"),
        );
        text(out, "label", "end", (LEFT - 8.0, y + 4.5), &plain(value));
    }
    let last = plot.places.len().saturating_sub(1).max(1) as f64;
    let x = |place: usize| LEFT + INSET + (LENGTH - 2.0 * INSET) * (place as f64 / last);
    for (place, words) in plot.places.iter().enumerate() {
        text(out, "label", "middle", (x(place), bottom + 18.0), words);
    }
    let middle = LEFT + LENGTH / 2.0;
    text(
        out,
        "label",
        "middle",
        (middle, bottom + 38.0),
        &plot.across,
    );
    let (side, height) = (MARGIN - 2.0, top + HEIGHT / 2.0);
    put(
        out,
        format_args!("<g transform=\"translate({side} {height}) rotate(-90)\">\n"),
    );
    text(out, "label", "middle", (0.0, 0.0), name);
    out.push_str("</g>\n");
    let mut ends = Vec::new();
    let middle = plot.lines.len().saturating_sub(1) as f64 / 2.0;
    for (number, line) in plot.lines.iter().enumerate() {
        let y = |value: f64| bottom - HEIGHT * axis.share(value);
        // A little beside each other, or intervals hide each other.
        let aside = APART * (number as f64 - middle);
        let x = |place: usize| x(place) + aside;
        stroke(out, line, &axis, x, y);
        let end = line.marks.iter().enumerate().rev();
        let end = end.filter_map(|(place, mark)| Some((x(place), y(mark.as_ref()?.value))));
        ends.extend(end.take(1).map(|(x, y)| (x, y, line)));
    }
    names(out, ends, top, bottom);
    bottom + 40.0
}

fn stroke(
    out: &mut String,
    line: &Line,
    axis: &Axis,
    x: impl Fn(usize) -> f64,
    y: impl Fn(f64) -> f64,
) {
    let class = line.kind.class();
    let (mut path, mut dots, mut pen) = (String::new(), String::new(), 'M');
    for (place, mark) in line.marks.iter().enumerate() {
        let Some(mark) = mark else {
            pen = 'M';
            continue;
        };
        let (x, middle) = (x(place), y(mark.value));
        put(&mut path, format_args!("{pen}{x:.1} {middle:.1}"));
        pen = 'L';
        put(
            &mut dots,
            format_args!(
                "<circle class=\"{class} mark\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"3.5\"/>\n"
            ),
        );
        let [low, high] = [mark.low, mark.high].map(&y);
        // An end outside the axis has no stroke across.
        let end = |value: f64, y: f64| match axis.holds(value) {
            true => format!("M{:.1} {y:.1}h7", x - 3.5),
            false => String::new(),
        };
        put(
            &mut dots,
            format_args!(
                "<path class=\"{class} whisker\" d=\"M{x:.1} {low:.1}V{high:.1}{}{}\"/>\n",
                end(mark.low, low),
                end(mark.high, high)
            ),
        );
    }
    let dashed = if line.dashed { " dashed" } else { "" };
    put(
        out,
        format_args!("<path class=\"{class} line{dashed}\" d=\"{path}\"/>\n{dots}"),
    );
}

/// Names at the ends of their lines, moved apart where those are close to each other.
fn names(out: &mut String, mut ends: Vec<(f64, f64, &Line)>, top: f64, bottom: f64) {
    ends.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut places = Vec::with_capacity(ends.len());
    let mut next = top;
    for (_, y, _) in &ends {
        next = y.max(next);
        places.push(next);
        next += LINE;
    }
    // Those that were moved past the end push the others back.
    let mut limit = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - LINE;
    }
    for ((x, y, line), place) in ends.into_iter().zip(places) {
        let (class, from, to) = (line.kind.class(), x + 7.0, LEFT + LENGTH + 20.0);
        put(
            out,
            format_args!(
                "<path class=\"{class} lead\" d=\"M{from:.1} {y:.1}L{to} {place:.1}\"/>\n"
            ),
        );
        let class = format!("{class} name");
        text(out, &class, "start", (to + 5.0, place + 4.5), &line.label);
    }
}

//! Charts as inline SVG.
//!
//! A chart is a list of lanes that share an axis. The words of a lane are HTML,
//! so that they wrap; only the lane's picture is SVG. Places are percentages:
//! nothing is scaled, and the same picture fits a telephone and a wide screen.

mod intervals;
mod ratios;
mod scale;

use maud::{Markup, html};

pub use intervals::{LEGEND, intervals};
pub use ratios::ratios;
use scale::Scale;

/// One line of a chart.
struct Lane {
    /// What it says in words.
    label: Markup,
    /// The same for those who do not see the picture.
    title: String,
    /// The picture, in percent across and pixels down.
    picture: Markup,
}

/// Height of a lane's picture in pixels; its middle is where values are drawn.
const HEIGHT: u32 = 26;
const MIDDLE: u32 = HEIGHT / 2;

/// Share of the axis that a label may take, in percent. On a telephone that is the
/// width of `500 MiB/s`.
const LABEL: f64 = 21.0;

/// Lanes over their axis.
fn chart(caption: &Markup, scale: &Scale, write: &dyn Fn(f64) -> String, lanes: &[Lane]) -> Markup {
    html! {
        figure.chart {
            figcaption {
                (caption)
                @if scale.is_logarithmic() { " The axis is logarithmic: equal steps are equal factors." }
            }
            @for lane in lanes {
                div.lane {
                    p.label { (lane.label) }
                    (strip(scale, &lane.title, &lane.picture))
                }
            }
            div.lane.axis aria-hidden="true" {
                p.label {}
                svg width="100%" height="18" {
                    (inset(&html! {
                        @for (tick, anchor) in labels(scale) {
                            text x=(percent(scale.place(tick))) y="13" text-anchor=(anchor) { (write(tick)) }
                        }
                    }))
                }
            }
        }
    }
}

fn strip(scale: &Scale, title: &str, picture: &Markup) -> Markup {
    html! {
        svg width="100%" height=(HEIGHT) role="img" aria-label=(title) {
            title { (title) }
            (inset(&html! {
                @for tick in scale.ticks() {
                    line.grid x1=(percent(scale.place(*tick))) x2=(percent(scale.place(*tick))) y1="0" y2=(HEIGHT) {}
                }
                (picture)
            }))
        }
    }
}

/// Room at both ends for what is drawn at them.
fn inset(content: &Markup) -> Markup {
    html! { svg x="2%" width="96%" height="100%" overflow="visible" { (content) } }
}

/// The ticks that have a label, and where it is held: one at an end must not stick
/// out, and none may run into another. The first, the last and 1 go before others.
fn labels(scale: &Scale) -> Vec<(f64, &'static str)> {
    let ticks = scale.ticks();
    let one = ticks.iter().filter(|tick| **tick == 1.0);
    let ends = ticks.first().into_iter().chain(ticks.last());
    let mut taken: Vec<f64> = Vec::new();
    let mut labels = Vec::new();
    for tick in one.chain(ends).chain(ticks) {
        let place = scale.place(*tick);
        let (anchor, start) = if place < LABEL / 2.0 {
            ("start", place)
        } else if place > 100.0 - LABEL / 2.0 {
            ("end", place - LABEL)
        } else {
            ("middle", place - LABEL / 2.0)
        };
        if taken.iter().all(|other| (other - start).abs() >= LABEL) {
            taken.push(start);
            labels.push((*tick, anchor));
        }
    }
    labels.sort_by(|left, right| left.0.total_cmp(&right.0));
    labels
}

fn percent(place: f64) -> String {
    format!("{place:.2}%")
}

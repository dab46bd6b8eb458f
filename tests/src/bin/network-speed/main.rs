//! `make bench`, its last part: the same servers by each network, beside runc.
//!
//! ```text
//! network-speed [compare|offloads] [ROUNDS [SECONDS [CONNECTIONS,...]]]
//! ```
//!
//! `compare` measures runc, Caisson through the same engine on the same bridge, and both
//! networks of `caisson run`. `offloads` measures one guest on a bridge with all that its
//! network device takes over, and without each. What stands side by side is measured in
//! turn, so that a change of the machine's load meets all alike: the ratios are what to
//! compare.

mod enclosure;
mod measure;
mod offloads;
mod sides;
mod table;

use std::process::ExitCode;

use measure::Measure;

/// How often everything is measured, if no number is given.
const ROUNDS: usize = 3;

/// How long servers are kept busy each time, likewise.
const SECONDS: u32 = 2;

/// How many connections do so at once, likewise.
const CONNECTIONS: [u32; 3] = [1, 10, 100];

fn main() -> ExitCode {
    if !enclosure::is_inside() {
        return enclosure::enter();
    }
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or("compare".to_owned());
    let rounds = arguments.next().map_or(ROUNDS, |text| number(&text));
    let seconds = arguments.next().map_or(SECONDS, |text| number(&text));
    let connections: Vec<u32> = match arguments.next() {
        Some(list) => list.split(',').map(number).collect(),
        None => CONNECTIONS.into(),
    };
    match &*what {
        "compare" => sides::compare(&Measure::all(&connections, seconds), rounds),
        "offloads" => offloads::compare(&Measure::bulk(&connections, seconds), rounds),
        other => panic!("{other}: neither compare nor offloads"),
    }
    ExitCode::SUCCESS
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is not a number"))
}

//! Names for containers whose user gave none.

const QUALITIES: [&str; 32] = [
    "airtight",
    "amber",
    "ballasted",
    "braced",
    "calm",
    "copper",
    "deep",
    "dry",
    "even",
    "firm",
    "floating",
    "granite",
    "hollow",
    "iron",
    "keen",
    "level",
    "moored",
    "narrow",
    "patient",
    "quiet",
    "riveted",
    "sealed",
    "silent",
    "steady",
    "still",
    "submerged",
    "sunken",
    "tidal",
    "upright",
    "watertight",
    "welded",
    "wide",
];

const ENGINEERS: [&str; 32] = [
    "baker",
    "bazalgette",
    "brunel",
    "coulomb",
    "crapper",
    "darcy",
    "eads",
    "eiffel",
    "ellet",
    "farren",
    "flad",
    "freyssinet",
    "froehlich",
    "goethals",
    "hoover",
    "jessop",
    "kerisel",
    "maillart",
    "mcalpine",
    "moulton",
    "poleni",
    "rankine",
    "rennie",
    "roebling",
    "smeaton",
    "stephenson",
    "strauss",
    "telford",
    "terzaghi",
    "trevithick",
    "triger",
    "vauban",
];

/// A name that follows from the id, with enough of its digits to be unique.
pub fn made_up(id: &str) -> String {
    let number =
        |range| u32::from_str_radix(id.get(range).unwrap_or("0"), 16).unwrap_or(0) as usize;
    let quality = QUALITIES[number(0..4) % QUALITIES.len()];
    let engineer = ENGINEERS[number(4..8) % ENGINEERS.len()];
    format!("{quality}_{engineer}_{}", id.get(8..12).unwrap_or("0"))
}

#[cfg(test)]
mod tests {
    use super::made_up;

    #[test]
    fn a_name_follows_from_the_id() {
        assert_eq!(made_up("00000001abcd"), "airtight_bazalgette_abcd");
    }
}

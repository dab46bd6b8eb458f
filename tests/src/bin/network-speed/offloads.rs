//! What each thing brings that a guest's network device takes over.

use caisson_end_to_end::netns::Netns;

use crate::measure::Measure;
use crate::sides::{bridge, caisson, ready};
use crate::table::{self, Column};

/// Name of the container.
const NAME: &str = "offloads";

/// What is switched off (ethtool(8), `-K`), and its name. Without checksums there is no
/// scatter-gather, and without that no segmentation: it is switched off with them.
const OFF: [(&str, &[&str]); 6] = [
    ("all on", &[]),
    ("no tso", &["tso"]),
    ("no tso, gso", &["tso", "gso"]),
    ("no tx checksums", &["tx"]),
    ("no gro", &["gro"]),
    ("no large receive", &["rx-gro-hw"]),
];

/// Measures one guest, with and without.
pub fn compare(measures: &[Measure], rounds: usize) {
    let host = Netns::new("host");
    let caisson = caisson();
    let servers = bridge(&caisson, &host, NAME, &["--cap-add", "NET_ADMIN"]);
    ready(&host, servers);
    let switch = |features: &[&str], state: &str| {
        if !features.is_empty() {
            let mut command = vec!["exec", NAME, "ethtool", "-K", "eth0"];
            command.extend(features.iter().flat_map(|feature| [feature, state]));
            caisson.ok(command);
        }
    };
    let columns = OFF.map(|(name, features)| Column {
        name,
        servers,
        switch: Box::new(move |measured| {
            if measured {
                switch(features, "off");
            } else {
                // What depends on another is off after it, and asked for by name.
                let all = ["tx", "sg", "tso", "gso", "gro", "rx-gro-hw"];
                switch(if features.is_empty() { &[] } else { &all }, "on");
            }
        }),
    });
    table::measure(&host, &columns, measures, rounds);
    host.inside(|| caisson.ok(["rm", "-f", NAME]));
}

//! What the device knows of its guest's connections, in a file.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use caisson_virtio::vsock::{MAX_CONNECTIONS, Standing};

/// The file, and what it said when this device began.
#[derive(Debug)]
pub struct State {
    file: Option<File>,
    known: Vec<Standing>,
}

impl State {
    /// Reads the file, which is empty if the guest had no device before.
    pub fn read(file: Option<OwnedFd>) -> Result<Self> {
        let mut file = file.map(File::from);
        let mut bytes = Vec::new();
        if let Some(file) = &mut file {
            let limit = MAX_CONNECTIONS * Standing::LEN + 1;
            file.take(limit as u64)
                .read_to_end(&mut bytes)
                .context("cannot read the connections")?;
        }
        let (records, rest) = bytes.as_chunks();
        if !rest.is_empty() || records.len() > MAX_CONNECTIONS {
            bail!("{} bytes are no list of connections", bytes.len());
        }
        let known = records.iter().map(Standing::from_bytes).collect();
        Ok(Self { file, known })
    }

    /// Whether the guest had another device before.
    pub fn goes_on(&self) -> bool {
        !self.known.is_empty()
    }

    /// The connections that it had.
    pub fn known(&self) -> Vec<Standing> {
        self.known.clone()
    }

    /// Writes down what another device is to go on with.
    pub fn note(&mut self, connections: &[Standing]) -> Result<()> {
        let file = self.file.as_mut().context("no file was given for it")?;
        let bytes: Vec<_> = connections
            .iter()
            .flat_map(|known| known.to_bytes())
            .collect();
        // It may have been asked for before.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&bytes))
            .context("cannot write the connections")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(guest_port: u32) -> Standing {
        Standing {
            host_port: 7,
            guest_port,
            guest_initiated: guest_port == 9,
            buf_alloc: 1,
            fwd_cnt: 2,
            told_fwd_cnt: 1,
            tx_cnt: 3,
            peer_buf_alloc: 4,
            peer_fwd_cnt: u32::MAX,
        }
    }

    #[test]
    fn what_one_device_notes_another_knows() {
        let file = tempfile::tempfile().expect("a file");
        let mut state = State::read(Some(file.try_clone().expect("a copy").into())).expect("empty");
        assert!(!state.goes_on());
        let connections = [standing(8), standing(9)];
        state.note(&connections).expect("noted");
        (&file).rewind().expect("rewound");
        let state = State::read(Some(file.into())).expect("read");
        assert!(state.goes_on());
        assert_eq!(state.known(), connections);
    }

    #[test]
    fn a_file_that_is_cut_is_refused() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[0; Standing::LEN + 1]).expect("written");
        file.rewind().expect("rewound");
        assert!(State::read(Some(file.into())).is_err());
    }
}

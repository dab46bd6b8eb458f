//! Progress of pulls and loads on a terminal: a bar for each layer.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use caisson_storage::{Digest, Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bars on standard error; nothing if it is not a terminal.
pub struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// `quiet` shows nothing.
    pub fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            layers: Mutex::default(),
        }
    }

    fn layer(&self, layer: &Digest, act: impl FnOnce(&ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.get(&layer.to_string()) {
            act(bar);
        }
    }

    fn add(&self, layer: &Digest, size: u64) {
        let style =
            ProgressStyle::with_template("{prefix} {msg:12} {bar:30} {bytes}/{total_bytes}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.all.add(ProgressBar::new(size).with_style(style));
        let name = layer.to_string();
        let digits = name
            .split_once(':')
            .map_or(name.as_str(), |(_, digits)| digits);
        bar.set_prefix(digits.chars().take(12).collect::<String>());
        bar.set_message("waiting");
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, bar);
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::LayerAdded { layer, size } => self.add(layer, size),
            Event::Downloaded { layer, bytes } => self.layer(layer, |bar| {
                bar.set_message("downloading");
                bar.set_position(bytes);
            }),
            Event::Retrying { layer, .. } => self.layer(layer, |bar| bar.set_message("retrying")),
            Event::LayerComplete { layer } => self.layer(layer, |bar| bar.set_message("verified")),
            Event::Unpacking { layer } => self.layer(layer, |bar| bar.set_message("unpacking")),
            Event::LayerDone { layer } => self.layer(layer, |bar| {
                bar.set_position(bar.length().unwrap_or(0));
                bar.finish_with_message("done");
            }),
            Event::Waiting { .. } => {
                // Nothing is shown if the terminal is gone.
                let _ = self
                    .all
                    .println("another process is fetching the same; waiting for it");
            }
            _ => {}
        }
    }
}

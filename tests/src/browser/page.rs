//! A page in the browser, and what can be asked of it.

use std::path::Path;

use serde_json::{Value, json};

use super::Browser;

/// `prefers-color-scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

impl Theme {
    /// As CSS calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// A page that has been loaded.
pub struct Page<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Browser {
    /// Opens a file, and waits until it is loaded with all that it loads itself.
    pub fn open(&mut self, file: &Path) -> Page<'_> {
        let file = file.canonicalize().expect("the page exists");
        let target = self.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attached = self.call(
            None,
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        );
        let session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(Some(&session), &format!("{domain}.enable"), json!({}));
        }
        // A picture is wider than what is seen beside a scroll bar.
        let hidden = json!({ "hidden": true });
        self.call(Some(&session), "Emulation.setScrollbarsHidden", hidden);
        self.events.clear();
        let url = format!("file://{}", file.display());
        let parameters = json!({ "url": url });
        let navigated = self.call(Some(&session), "Page.navigate", parameters);
        assert!(navigated["errorText"].is_null(), "{url}: {navigated}");
        self.wait_for("Page.loadEventFired");
        Page {
            browser: self,
            session,
        }
    }
}

impl Page<'_> {
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.browser.call(Some(&self.session), method, parameters)
    }

    /// Gives the window this width, and the user this taste.
    pub fn show(&mut self, width: u32, theme: Theme) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false }),
        );
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": theme.name() }] }),
        );
    }

    /// The value of an expression of JavaScript. The tools may run one although
    /// the page itself has none.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let mut answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true }),
        );
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].take()
    }

    /// Saves a picture of the whole page.
    pub fn save_picture(&mut self, file: &Path) {
        let picture = self.call(
            "Page.captureScreenshot",
            json!({ "format": "png", "captureBeyondViewport": true }),
        );
        let data = picture["data"].as_str().expect("a picture");
        std::fs::write(file, base64(data)).expect("the picture is written");
    }

    /// Everything that went to the console or the log, and every exception.
    pub fn complaints(&self) -> Vec<String> {
        let kinds = [
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
        ];
        self.events(&kinds)
    }

    /// Everything that the page asked for, itself included.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events(&["Network.requestWillBeSent"]);
        let url = |event: &String| -> String {
            let event: Value = serde_json::from_str(event).expect("JSON");
            let url = event["params"]["request"]["url"].as_str();
            url.unwrap_or_default().to_owned()
        };
        sent.iter().map(url).collect()
    }

    fn events(&self, kinds: &[&str]) -> Vec<String> {
        let wanted = |event: &&Value| kinds.iter().any(|kind| event["method"] == *kind);
        let events = self.browser.events.iter();
        events.filter(wanted).map(Value::to_string).collect()
    }
}

/// The bytes of a base64 text. The protocol writes pictures so.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let mut bits = 0_u32;
    let mut count = 0;
    for character in text.bytes() {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

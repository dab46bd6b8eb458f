//! From what was seen to a grade.

use super::super::probe::Account;
use super::refusal;
use crate::model::Verdict;
use crate::runtime::{Ending, Outcome};

/// A container in which the attack was to run, and what came of it.
pub struct Try {
    /// The container's command.
    pub outcome: Outcome,
    account: Account,
    folder: Option<String>,
    killable: bool,
}

impl Try {
    /// Reads what the probe said.
    pub fn of(outcome: Outcome) -> Self {
        let account = Account::read(&outcome.text());
        Self {
            outcome,
            account,
            folder: None,
            killable: false,
        }
    }

    /// It was to start in a folder that is itself the attack.
    pub fn starting_in(mut self, folder: Option<&str>) -> Self {
        self.folder = folder.map(str::to_owned);
        self
    }

    /// The last line that the probe printed.
    fn last_line(&self) -> String {
        let text = self.outcome.text();
        text.lines().last().unwrap_or_default().to_owned()
    }

    /// To be killed while it goes on is its end.
    pub fn ended_by_kill(mut self) -> Self {
        self.killable = true;
        self
    }

    /// What the attack came to; nothing if it did not get to run.
    fn result(&self) -> Option<String> {
        if self.account.ended {
            return Some(self.account.summary());
        }
        let killed = matches!(
            self.outcome.ending,
            Ending::Exited(KILLED) | Ending::Signalled(9)
        );
        if self.killable && self.account.started && killed {
            return Some(format!("it was killed after `{}`", self.last_line()));
        }
        // Being refused such a folder is the attack's own end, if it is this that was refused.
        let folder = self.folder.as_deref()?;
        let said = self.outcome.error_text();
        let names_it = [folder, "cwd", "getcwd", "chdir"]
            .iter()
            .any(|word| said.contains(word));
        let refused = !self.account.started && names_it;
        refused.then(|| format!("it did not start in {folder}: {}", refusal(&self.outcome)))
    }
}

/// What a shell and engines make of SIGKILL.
const KILLED: i32 = 128 + 9;

/// Grades an escape by the damage that was found outside.
pub fn judge(tries: &[Try], damage: Option<String>, by_design: bool) -> (Verdict, String) {
    if let Some(damage) = damage {
        let verdict = if by_design {
            Verdict::SharedByDesign
        } else {
            Verdict::HostAffected
        };
        return (verdict, damage);
    }
    let mut results = Vec::new();
    for one in tries {
        match one.result() {
            Some(result) => results.push(result),
            None => return (Verdict::SetUpFailed, broken(one)),
        }
    }
    if results.is_empty() {
        return (Verdict::SetUpFailed, "nothing was tried".to_owned());
    }
    results.dedup();
    let evidence = format!("nothing happened to the victim: {}", results.join("; "));
    (Verdict::Contained, evidence)
}

/// How an attack broke off.
fn broken(one: &Try) -> String {
    let outcome = &one.outcome;
    let how = if one.account.started {
        format!("the probe broke off after `{}`", one.last_line())
    } else {
        "the probe did not start".to_owned()
    };
    format!("{how} ({}): {}", outcome.ending, refusal(outcome))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tried(code: i32, stdout: &str, stderr: &str) -> Try {
        Try::of(Outcome {
            ending: Ending::Exited(code),
            stdout: stdout.into(),
            stderr: stderr.into(),
            wall: Duration::from_secs(1),
            command: "run".to_owned(),
        })
    }

    #[test]
    fn damage_decides_whatever_the_attack_said() {
        let one = [tried(0, "refused a: no\nend\n", "")];
        let seen = Some("changed".to_owned());
        assert_eq!(judge(&one, seen.clone(), false).0, Verdict::HostAffected);
        assert_eq!(judge(&one, seen, true).0, Verdict::SharedByDesign);
    }

    #[test]
    fn an_attack_that_ran_to_its_end_is_contained() {
        let (verdict, evidence) = judge(&[tried(0, "refused a: no\nend\n", "")], None, true);
        assert_eq!(verdict, Verdict::Contained);
        assert!(evidence.ends_with("a: no"), "{evidence}");
    }

    #[test]
    fn a_crash_is_no_pass() {
        for (one, words) in [
            (tried(139, "try a\n", ""), "broke off after `try a`"),
            (
                tried(1, "", "exec failed"),
                "did not start (exit status 1): exec failed",
            ),
            (tried(0, "", ""), "did not start"),
        ] {
            let (verdict, evidence) = judge(&[tried(0, "end\n", ""), one], None, false);
            assert_eq!(verdict, Verdict::SetUpFailed);
            assert!(evidence.contains(words), "{evidence}");
        }
        assert_eq!(judge(&[], None, false).0, Verdict::SetUpFailed);
    }

    #[test]
    fn a_kill_is_an_end_only_where_it_is_meant_to_be() {
        let killed = || tried(137, "try fill MiB 52\n", "");
        let (verdict, evidence) = judge(&[killed().ended_by_kill()], None, false);
        assert_eq!(verdict, Verdict::Contained);
        assert!(evidence.contains("MiB 52"), "{evidence}");
        assert_eq!(judge(&[killed()], None, false).0, Verdict::SetUpFailed);
        let never = tried(137, "", "no memory for the runtime").ended_by_kill();
        assert_eq!(judge(&[never], None, false).0, Verdict::SetUpFailed);
    }

    #[test]
    fn a_refused_folder_is_an_end_only_if_it_is_the_folder() {
        let folder = Some("/proc/self/fd/7");
        let refused = tried(1, "", "chdir to cwd (\"/proc/self/fd/7\") failed").starting_in(folder);
        assert_eq!(judge(&[refused], None, false).0, Verdict::Contained);
        let other = tried(1, "", "no space left on device").starting_in(folder);
        assert_eq!(judge(&[other], None, false).0, Verdict::SetUpFailed);
    }
}

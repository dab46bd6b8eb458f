use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;

use super::super::{MEMORY, STATE};
use super::*;
use crate::RunningVm;

/// For what would otherwise hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn config(kernel: PathBuf) -> VmConfig {
    VmConfig {
        kernel,
        ..VmConfig::sample()
    }
}

/// Makes files instead of machines.
#[derive(Default)]
struct Maker {
    made: AtomicUsize,
    fails: bool,
    hangs: bool,
    version: &'static str,
}

#[async_trait]
impl Hypervisor for Maker {
    fn name(&self) -> &'static str {
        "maker"
    }

    async fn boot(&self, _: &VmConfig) -> Result<Box<dyn RunningVm>> {
        Err(Error::Ended)
    }

    fn recipe(&self, config: &VmConfig) -> Result<Recipe> {
        let mut recipe = Recipe::new("maker", config);
        recipe.add("version", self.version);
        Ok(recipe)
    }

    async fn make_template(&self, _: &VmConfig, directory: &Path) -> Result<()> {
        self.made.fetch_add(1, Ordering::Relaxed);
        fs::write(directory.join(MEMORY), "memory").expect("written");
        if self.hangs {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        if self.fails {
            return Err(Error::Ended);
        }
        fs::write(directory.join(STATE), "state").expect("written");
        Ok(())
    }

    async fn fork(&self, _: &Template, _: &VmConfig) -> Result<Box<dyn RunningVm>> {
        Err(Error::Ended)
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    store: TemplateStore,
    config: VmConfig,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            store: TemplateStore::new(folder.path().join("templates")),
            config: config("/k".into()),
            folder,
        }
    }

    async fn obtain(&self, maker: &Maker) -> Result<Template> {
        self.store.obtain(maker, &self.config, PATIENCE).await
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path().join("templates"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("a name"))
            .filter(|name| name != LOCK)
            .collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn makers_at_the_same_time_make_one() {
    let fixture = Fixture::new();
    let maker = Maker::default();
    let (a, b, c) = tokio::join!(
        fixture.obtain(&maker),
        fixture.obtain(&maker),
        fixture.obtain(&maker)
    );
    let keys = [a, b, c].map(|template| template.expect("a template").key);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[1], keys[2]);
    assert_eq!(maker.made.into_inner(), 1);
    assert_eq!(fixture.names(), [keys[0].clone()]);
    let listed = fixture.store.list().expect("a list");
    assert_eq!(listed[0].key, keys[0]);
}

#[tokio::test]
async fn whatever_is_damaged_is_made_anew() {
    for damage in [
        (MEMORY, Some("mem")),
        (MEMORY, Some("MEMORY")),
        (MEMORY, None),
        (STATE, Some("stat")),
        (STATE, Some("STATE")),
        (STATE, None),
        ("template.json", Some("{\"key\":")),
        ("template.json", None),
    ] {
        let fixture = Fixture::new();
        let maker = Maker::default();
        let template = fixture.obtain(&maker).await.expect("a template");
        let (name, content) = damage;
        let path = template.directory.join(name);
        // While it is open, its number is no other file's.
        let _old = File::open(&path).expect("a file");
        fs::remove_file(&path).expect("removed");
        if let Some(content) = content {
            fs::write(&path, content).expect("written");
        }
        assert!(
            fixture.store.list().expect("a list").is_empty(),
            "{damage:?}"
        );
        fixture.obtain(&maker).await.expect("another");
        assert_eq!(maker.made.load(Ordering::Relaxed), 2, "{damage:?}");
        fixture.obtain(&maker).await.expect("the same");
        assert_eq!(maker.made.load(Ordering::Relaxed), 2, "{damage:?}");
        assert_eq!(fixture.names(), [template.key]);
    }
}

#[tokio::test]
async fn what_a_killed_maker_left_is_removed() {
    let fixture = Fixture::new();
    let templates = fixture.folder.path().join("templates");
    for left in [".new", ".gone-1-0"] {
        fs::create_dir_all(templates.join(left)).expect("a folder");
        fs::write(templates.join(left).join(MEMORY), "half").expect("written");
    }
    let template = fixture.obtain(&Maker::default()).await.expect("a template");
    assert_eq!(fixture.names(), [template.key]);
}

#[tokio::test]
async fn a_failure_is_remembered_until_somebody_insists() {
    let fixture = Fixture::new();
    let failing = Maker {
        fails: true,
        ..Maker::default()
    };
    for _ in 0..2 {
        let error = fixture.obtain(&failing).await.expect_err("fails");
        assert!(error.to_string().contains("has ended"), "{error}");
    }
    assert_eq!(failing.made.into_inner(), 1, "tried once");
    assert_eq!(fixture.names().len(), 1, "the failure");
    fixture
        .store
        .build(&Maker::default(), &fixture.config, PATIENCE)
        .await
        .expect("a template");
}

#[tokio::test]
async fn a_maker_that_hangs_is_given_up() {
    let fixture = Fixture::new();
    let hanging = Maker {
        hangs: true,
        ..Maker::default()
    };
    let error = fixture
        .store
        .obtain(&hanging, &fixture.config, Duration::from_millis(50))
        .await
        .expect_err("hangs");
    assert!(error.to_string().contains("not ready"), "{error}");
    assert!(!fixture.names().contains(&NEW.to_owned()));
}

#[tokio::test]
async fn a_newer_one_of_the_same_kind_takes_its_place() {
    let fixture = Fixture::new();
    let old = fixture.obtain(&Maker::default()).await.expect("a template");
    let maker = Maker {
        version: "2",
        ..Maker::default()
    };
    let new = fixture.obtain(&maker).await.expect("a template");
    assert_ne!(old.key, new.key);
    assert_eq!(fixture.names(), [new.key.as_str()]);
    assert_eq!(fixture.store.remove("nothing").expect("none"), [""; 0]);
    assert_eq!(fixture.store.remove("").expect("removed"), [new.key]);
    assert_eq!(fixture.names(), [""; 0]);
}

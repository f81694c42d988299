//! Changing a node's configuration as an administrator does: clone, edit, commit, push.

use std::fs;
use std::path::PathBuf;

use super::{Actor, Answer, Checkout, Node};

/// The admin repository's files, to be changed.
pub struct Configuration {
    dir: PathBuf,
    submodules: Vec<String>,
}

impl Configuration {
    /// The push's own answer; everything before it must succeed.
    #[track_caller]
    pub(super) fn push(actor: &Actor, node: &Node, change: impl FnOnce(&mut Self)) -> Answer {
        let into = format!("admin-{}", node.name());
        let dir = actor.dir().join(&into);
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("an earlier clone");
        }
        actor.try_clone(&actor.url(node, "gitmesh-admin"), &into).succeeds();
        let checkout = Checkout::new(actor, &dir);
        let mut files = Self { dir, submodules: Vec::new() };
        change(&mut files);
        checkout.git(&["add", "-A"]).succeeds();
        for path in files.submodules {
            let entry = format!("160000,{},{path}", checkout.oid("HEAD"));
            checkout.git(&["update-index", "--add", "--cacheinfo", &entry]).succeeds();
        }
        checkout.git(&["commit", "-q", "--allow-empty", "-m", "change the configuration"]).succeeds();
        checkout.push(&["HEAD:main"])
    }

    /// The main file becomes rules that leave alice the administrator, and `text`.
    pub fn conf(&mut self, text: &str) {
        self.file("conf/gitmesh.conf", format!("repo gitmesh-admin\n    RW+ = alice\n\n{text}"));
    }

    /// The main file becomes `text` and nothing else.
    pub fn whole_conf(&mut self, text: &str) {
        self.file("conf/gitmesh.conf", text);
    }

    /// Lets an actor in under their own name.
    pub fn key(&mut self, actor: &Actor) {
        self.file(&format!("keydir/{}.pub", actor.name()), format!("{}\n", actor.key_line()));
    }

    pub fn file(&mut self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().expect("inside")).expect("writable");
        fs::write(path, contents).expect("writable");
    }

    /// An entry of a submodule, which `git add` alone would not make.
    pub fn submodule(&mut self, path: &str) {
        self.submodules.push(path.to_owned());
    }

    pub fn remove(&mut self, path: &str) {
        fs::remove_file(self.dir.join(path)).expect("it was there");
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        let path = self.dir.join(path);
        if path.exists() {
            fs::remove_file(&path).expect("writable");
        }
        std::os::unix::fs::symlink(target, path).expect("writable");
    }
}

//! What the tests of this room share: keys, an admin repository, and a store in a temporary directory.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ssh_key::private::{Ed25519Keypair, KeypairData};

use super::{ADMIN_REPO, Activator, Address, Applied, DataDir, Programs, Realm, Start, Store};
use crate::cluster::Masters;
use crate::git::objects::{self, Author};
use crate::model::{Actor, HostName, Oid, RepoName, UserName};
use crate::policy::{Settings, parse_public_key};
use crate::repo::{self, Ownership, Prepare};

/// The public key that grows from `seed`, as a line of a `.pub` file.
pub fn key_line(seed: u8) -> String {
    let pair = KeypairData::from(Ed25519Keypair::from_seed(&[seed; 32]));
    let key = ssh_key::PrivateKey::new(pair, "somebody").unwrap();
    format!("{}\n", key.public_key().to_openssh().unwrap())
}

pub fn blob(seed: u8) -> Vec<u8> {
    parse_public_key(&key_line(seed)).unwrap().blob.to_vec()
}

pub fn repo(name: &str) -> RepoName {
    RepoName::new(name).unwrap()
}

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// The seed of the node's own key.
pub const OWN_KEY: u8 = 99;

pub struct TestStore(repo::Store);

impl Store for TestStore {
    fn create_all(&self, repos: &[&RepoName], prepare: &Prepare<'_>) -> Vec<io::Result<bool>> {
        let unlucky = |repo: &RepoName| repo.as_str() == "unlucky";
        self.0.create_all(repos, &|repo, dir| {
            if unlucky(repo) { Err(io::Error::other("no space left")) } else { prepare(repo, dir) }
        })
    }

    fn copy_of(&self, repo: &RepoName) -> Option<HostName> {
        self.0.copy_of(repo)
    }

    fn is_no_copy(&self, repo: &RepoName) -> io::Result<()> {
        Store::is_no_copy(&self.0, repo)
    }

    fn put_away(&self, repo: &RepoName) -> io::Result<bool> {
        Store::put_away(&self.0, repo)
    }

    fn bring_back(&self, repo: &RepoName, belongs: &dyn Fn() -> bool) -> io::Result<bool> {
        Store::bring_back(&self.0, repo, belongs)
    }

    fn exists(&self, repo: &RepoName) -> bool {
        self.0.exists(repo)
    }

    fn ownership(&self, repo: &RepoName) -> Option<Ownership> {
        self.0.ownership(repo)
    }

    fn creator(&self, repo: &RepoName) -> Option<UserName> {
        self.0.creator(repo)
    }

    fn list(&self) -> io::Result<Vec<RepoName>> {
        self.0.list()
    }

    fn dir(&self, repo: &RepoName) -> PathBuf {
        self.0.dir(repo)
    }

    fn admin_dir(&self) -> PathBuf {
        self.dir(&super::testing::repo(ADMIN_REPO))
    }
}

/// A node named server1 with an admin repository, and alice (key 1) as its administrator unless told otherwise.
pub struct Node {
    _dir: tempfile::TempDir,
    pub data: DataDir,
    pub store: Arc<TestStore>,
}

impl Node {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path().to_owned());
        data.create().unwrap();
        let store = Arc::new(TestStore(repo::Store::new(data.repositories(), "/dev/null".into())));
        objects::init_bare(&store.admin_dir(), "main").unwrap();
        Self { _dir: dir, data, store }
    }

    /// A node whose configuration is alice's rule for the admin repository, and `conf`.
    pub fn with(conf: &str) -> Self {
        let node = Self::new();
        node.commit_conf(conf);
        node
    }

    pub fn commit_conf(&self, conf: &str) -> Oid {
        let conf = format!("repo gitmesh-admin\n RW+ = alice\n{conf}\n");
        self.commit(&[("conf/gitmesh.conf", &conf), ("keydir/alice.pub", &key_line(1))])
    }

    /// Commits the files on top of what is there.
    pub fn commit(&self, files: &[(&str, &str)]) -> Oid {
        let files: BTreeMap<_, _> =
            files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
        let dir = self.store.admin_dir();
        let parent = objects::head_commit(&dir).unwrap();
        let author = Author { name: "alice", email: "alice@example.com" };
        objects::commit_files(&dir, "main", &files, author, "test", parent.as_ref()).unwrap()
    }

    pub fn start(&self) -> Start {
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        let settings = Settings { config_keys: vec![r"foo\..*".to_owned()], ..Settings::recommended() };
        let data = self.data.clone();
        let programs = Programs::new(data.clone(), store.admin_dir(), false);
        Start {
            programs,
            data,
            node: host("server1"),
            address: Address::of_host("server1"),
            identity: blob(OWN_KEY),
            settings,
            guard_repositories: 10,
            masters: Masters::open(
                &host("server1"),
                crate::cluster::Files::all_in(&self.data.state()),
                crate::repo::write_whole,
            )
            .unwrap(),
            store,
        }
    }

    pub fn run(&self) -> (Activator, Realm, Applied) {
        Activator::start(self.start()).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// From where everybody comes.
pub const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Who the realm takes the holder of the key for.
pub fn actor(realm: &Realm, seed: u8) -> Actor {
    realm.identify(&blob(seed), HERE).unwrap()
}

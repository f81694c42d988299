//! The Debian package, made of the binary under test: what is in it, installed into a root of its own and removed.
//! Where dpkg is missing, or one may not install (neither root nor fakeroot), this says so and is skipped.

use std::path::Path;

use crate::world::{Answer, World};

fn has(world: &World, program: &str) -> bool {
    let mut command = world.command("sh");
    command.arg("-c").arg(format!("command -v {program}"));
    Answer::of(command).code == Some(0)
}

#[test]
fn manual_and_completions_name_every_command() {
    let world = World::new();
    let dir = world.dir().join("man").display().to_string();
    world.gitmesh(&["man", &dir]).succeeds();
    world.gitmesh(&["man"]).succeeds().says(".TH gitmesh 1");
    let page = |command: &str| {
        let path = world.dir().join(format!("man/gitmesh-{command}.1"));
        std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("no page of {command}")).replace("\\-", "-")
    };
    for command in ["init", "serve", "import", "mirror", "check"] {
        assert!(page(command).contains(command));
    }
    // The grammar of every command that one has over SSH too.
    let node = world.node("server1");
    let told = world.alice().ssh(&node, "help").succeeds().stdout;
    let usages = told.lines().filter_map(|line| line.strip_prefix('\t')?.split("  ").next());
    for usage in usages {
        let noun = usage.split(' ').next().unwrap();
        if !["help", "access", "doctor", "peer", "explain"].contains(&noun) {
            assert!(page(noun).contains(&format!("usage: {usage}\n")), "{usage}: {}", page(noun));
            world.gitmesh(&[noun, "-h"]).succeeds().says(usage);
            world.gitmesh(&["help", noun]).succeeds().says(usage);
        }
    }
    assert!(!world.dir().join("man/gitmesh-hook.1").exists(), "git alone calls it");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        world.gitmesh(&["completions", shell]).succeeds().says("import").says("mirror");
    }
    world.gitmesh(&["completions", "csh"]).refused_by("invalid value");
}

#[test]
fn installed_and_removed() {
    let world = World::new();
    if !has(&world, "dpkg-deb") {
        eprintln!("skipped: there is no dpkg-deb here");
        return;
    }
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb");
    let mut make = world.command(&packaging.display().to_string());
    make.arg(env!("CARGO_BIN_EXE_gitmesh")).arg(world.dir()).env("GITMESH_DEB_COMPRESSION", "none");
    let package = Answer::of(make).succeeds().stdout.trim().to_owned();

    let root = world.dir().join("root");
    let admin = root.join("var/lib/dpkg");
    for dir in ["updates", "info", "triggers"] {
        std::fs::create_dir_all(admin.join(dir)).unwrap();
    }
    std::fs::create_dir(root.join("etc")).unwrap();
    for file in ["status", "available"] {
        std::fs::write(admin.join(file), "").unwrap();
    }
    let am_root = rustix::process::geteuid().is_root();
    if !am_root && !has(&world, "fakeroot") {
        eprintln!("skipped: neither root nor fakeroot");
        return;
    }
    let dpkg = |words: &[&str]| {
        let mut dpkg = world.command(if am_root { "dpkg" } else { "fakeroot" });
        if !am_root {
            dpkg.arg("dpkg");
        }
        dpkg.arg(format!("--root={}", root.display())).arg("--force-script-chrootless").arg("--force-depends");
        dpkg.arg("--force-not-root").arg("--force-bad-path").args(words);
        Answer::of(dpkg)
    };
    dpkg(&["--install", &package]).succeeds();
    for file in [
        "usr/bin/gitmesh",
        "usr/lib/systemd/system/gitmesh.service",
        "usr/lib/sysusers.d/gitmesh.conf",
        "usr/share/man/man1/gitmesh.1.gz",
        "usr/share/man/man1/gitmesh-import.1.gz",
        "usr/share/bash-completion/completions/gitmesh",
        "usr/share/zsh/vendor-completions/_gitmesh",
        "usr/share/fish/vendor_completions.d/gitmesh.fish",
        "usr/share/doc/gitmesh/examples/gitmesh.toml",
        "usr/share/doc/gitmesh/copyright",
    ] {
        assert!(root.join(file).is_file(), "{file} is not installed");
    }
    let data = root.join("var/lib/gitmesh");
    assert!(data.is_dir());
    let mut version = world.command(&root.join("usr/bin/gitmesh").display().to_string());
    version.arg("--version");
    Answer::of(version).succeeds().says(env!("CARGO_PKG_VERSION"));
    std::fs::write(data.join("kept"), "a repository").unwrap();
    // An upgrade to the same version, then removal and purge: nobody's repositories go with the program.
    dpkg(&["--install", &package]).succeeds();
    dpkg(&["--remove", "gitmesh"]).succeeds();
    assert!(!root.join("usr/bin/gitmesh").exists());
    dpkg(&["--purge", "gitmesh"]).succeeds();
    assert!(data.join("kept").exists());
}

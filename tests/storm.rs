//! What a hostile user, a crowd or a crash tries: rights that outlive their key, answers that tell too much, room that
//! is taken and never given back, what a killed git or daemon leaves behind.

use crate::world::World;

#[test]
fn an_order_to_mirror_tells_a_stranger_nothing() {
    let world = World::new();
    let node = world.node("server1");
    let bob = world.actor("bob");
    let conf = "repo secret\n    RW+ = alice\n    option mirror.master = server2\n    option mirror.copies = server1\n";
    world.alice().configure(&node, |c| (c.conf(conf), c.key(&bob)).0).succeeds();
    let told = |repo: &str| {
        let answer = bob.ssh(&node, &format!("mirror request-push {repo}")).fails();
        (answer.code, answer.stderr.replace(repo, "REPO"))
    };
    assert_eq!(told("secret"), told("nowhere"));
    world.alice().ssh(&node, "mirror request-push secret").refused_by("its master is server2");
}

//! The unit of `contrib/systemd`, run by a real systemd: an upgrade, and the death of agent and guard at once, are pauses.

mod common;

use common::{Scene, scene};
use pageferry_tests::{Cell, Host, Result, Systemd, criu_restore, free_port, http};

#[test]
fn restarted_killed_and_stopped_by_systemd() -> Result<()> {
    for (name, size) in [("redis", 20_000), ("gunicorn", 20_000)] {
        let Scene { work, checkpoint, split } = scene(name, size)?;
        let host = Host::server(&work, &split.store)?;
        let systemd = Systemd::start(&work)?;
        let socket = systemd.pager(name, &host.url(), &split.slim, "--complete never")?;
        let cell = Cell::new()?;
        criu_restore(&cell, &split.slim, &socket, &["--lazy-pages"])?;
        checkpoint.first_reply(&cell)?;
        let unit = format!("pageferry-agent@{name}");
        for _ in 0..2 {
            let before = systemd.property(name, "MainPID")?;
            // As an upgrade does.
            systemd.ctl(&["restart", &unit])?;
            assert_ne!(systemd.property(name, "MainPID")?, before);
            checkpoint.first_reply(&cell)?;
            let starts: u32 = systemd.property(name, "NRestarts")?.parse()?;
            systemd.kill_both(name)?;
            systemd.has_restarted(name, starts)?;
            checkpoint.first_reply(&cell)?;
        }
        // The same signal from somebody else, who has not asked for a start after it.
        let starts: u32 = systemd.property(name, "NRestarts")?.parse()?;
        systemd.ctl(&["kill", "--kill-who=main", "--signal=USR2", &unit])?;
        systemd.has_restarted(name, starts)?;
        checkpoint.first_reply(&cell)?;
        assert!(systemd.property(name, "NFileDescriptorStore")?.parse::<u32>()? > 3);
        // What is left comes before it ends.
        systemd.ctl(&["stop", &unit])?;
        assert_eq!(systemd.property(name, "Result")?, "success", "{}", systemd.log());
        assert_eq!(systemd.property(name, "NFileDescriptorStore")?, "0");
        checkpoint.check(&cell)?;
        let log = systemd.log();
        assert!(!log.contains("ERROR") && !log.contains("zeros"), "{log}");
    }
    Ok(())
}

#[test]
fn the_server_needs_no_rights() -> Result<()> {
    let Scene { work, checkpoint: _checkpoint, split } = scene("redis", 5_000)?;
    let systemd = Systemd::start(&work)?;
    let port = free_port()?;
    // Started by the first who asks, who waits for it.
    systemd.server(&split.store, port)?;
    assert_eq!(systemd.ctl(&["show", "--value", "--property", "ActiveState", "pageferry-server"])?.trim(), "inactive");
    let tasks = http::get(port, "/pid")?;
    assert!(tasks.contains("redis-server"), "{tasks}");
    systemd.ctl(&["restart", "pageferry-server"])?;
    assert!(http::get(port, "/pid")?.contains("redis-server"));
    systemd.ctl(&["stop", "pageferry-server.socket", "pageferry-server.service"])?;
    assert_eq!(systemd.ctl(&["show", "--value", "--property", "Result", "pageferry-server"])?.trim(), "success");
    Ok(())
}

use super::super::api::testing::Answering;
use serde_json::Value;

use super::*;

fn ctl_on(process: &Answering) -> Ctl {
    Ctl { api: Api::new(Some(&process.socket)).unwrap(), output: Output::new(true) }
}

fn wanted(limit: u64) -> args::SessionArguments {
    args::SessionArguments {
        listener: Some("a b".into()),
        backend: Some("u/b".into()),
        client: Some("::1".parse().unwrap()),
        limit,
    }
}

/// Three pages of two sessions each.
fn three_pages() -> Answering {
    Answering::start(|line, _| {
        let after = line.split("after=").nth(1).and_then(|rest| rest.split('&').next()?.parse().ok());
        let from: u64 = after.unwrap_or(0);
        let limit: u64 = line.split("limit=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
        let ids: Vec<_> = (from + 1..=6).take(limit.min(2) as usize).collect();
        let next = ids.last().filter(|last| **last < 6);
        let sessions: Vec<_> = ids.iter().map(|id| json!({ "id": id })).collect();
        (200, json!({ "sessions": sessions, "next": next }).to_string())
    })
}

#[test]
fn pages_are_followed_up_to_the_limit() {
    let process = three_pages();
    let api = Api::new(Some(&process.socket)).unwrap();
    let ids = |page: &Value| -> Vec<u64> {
        page["sessions"].as_array().unwrap().iter().map(|session| session["id"].as_u64().unwrap()).collect()
    };
    let page = pages::follow(&api, &wanted(3)).unwrap();
    assert_eq!((ids(&page), page["next"].as_u64()), (vec![1, 2, 3], Some(3)));
    let page = pages::follow(&api, &wanted(100)).unwrap();
    assert_eq!((ids(&page), page["next"].as_u64()), (vec![1, 2, 3, 4, 5, 6], None));
    assert_eq!(
        process.asked()[1],
        "GET /v1/sessions?limit=1&after=2&listener=a%20b&backend=u%2Fb&client=%3A%3A1"
    );
}

#[test]
fn page_that_leads_to_itself_ends() {
    let process = Answering::start(|_, _| (200, json!({ "sessions": [], "next": 7 }).to_string()));
    let api = Api::new(Some(&process.socket)).unwrap();
    assert_eq!(pages::follow(&api, &wanted(10)).unwrap()["next"], 7);
    assert_eq!(process.asked().len(), 2);
}

#[test]
fn orders_reach_the_process() {
    let process = Answering::start(|_, _| (200, "{}".into()));
    let ctl = ctl_on(&process);
    ctl.run(&CtlCommand::Kill { session: 7 }).unwrap();
    ctl.run(&CtlCommand::Drain).unwrap();
    ctl.run(&CtlCommand::LogLevel { level: log::Level::Debug }).unwrap();
    ctl.run(&CtlCommand::Ready { listener: Some("a/b".into()) }).unwrap();
    let (client, listener, sni) = ("::1".into(), Some("web".into()), Some("a.b".into()));
    ctl.run(&CtlCommand::Explain { client, listener, sni }).unwrap();
    ctl.run(&CtlCommand::Config).unwrap();
    ctl.run(&CtlCommand::Diff).unwrap();
    ctl.run(&CtlCommand::Reload).unwrap();
    ctl.run(&CtlCommand::Upgrade).unwrap();
    let backend: changes::BackendName = "w/a b".parse().unwrap();
    let weight = changes::of_running("weight=3").unwrap();
    let set = |values| CtlCommand::Set { backend: backend.clone(), values };
    ctl.run(&set(vec![weight.clone()])).unwrap();
    assert!(matches!(ctl.run(&set(vec![weight.clone(), weight])), Err(Failure::Usage("weight"))));
    let (upstream, address) = ("w".to_owned(), "::1".to_owned());
    let values = vec![changes::of_entry("backup=true").unwrap()];
    ctl.run(&CtlCommand::Add { upstream, address, values }).unwrap();
    ctl.run(&CtlCommand::Remove { backend }).unwrap();
    assert_eq!(
        process.asked(),
        [
            "DELETE /v1/sessions/7",
            "POST /v1/drain {}",
            "POST /v1/log-level {\"level\":\"debug\"}",
            "GET /readyz/a%2Fb",
            "GET /v1/explain?client=%3A%3A1&listener=web&sni=a.b",
            "GET /v1/config",
            "GET /v1/diff",
            "POST /v1/reload",
            "POST /v1/upgrade",
            "POST /v1/upstreams/w/backends/a%20b {\"weight\":3}",
            "POST /v1/upstreams/w/backends {\"address\":\"::1\",\"backup\":true}",
            "DELETE /v1/upstreams/w/backends/a%20b",
        ]
    );
}

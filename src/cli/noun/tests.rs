//! Commands against a server that keeps the contract, over its socket.

use serde_json::json;

use super::fake::Fake;
use crate::cli::exit::Exit;

#[test]
fn the_life_of_a_record_over_the_socket() {
    let fake = Fake::start();
    fake.run("domain add site1").unwrap();
    fake.run("account add anna email=a@b --domain site1").unwrap();
    fake.run("account add bob").unwrap();
    fake.run("group add site1/staff description=guards +accounts=anna,bob").unwrap();
    let id = |kind: &str, name: &str| fake.item(kind, name).unwrap()["id"].clone();
    let (anna, bob) = (id("accounts", "anna"), id("accounts", "bob"));
    let staff = fake.item("groups", "staff").unwrap();
    assert_eq!(staff["domain"], id("domains", "site1"));
    assert_eq!(staff["accounts"], json!([anna, bob]), "a name is looked for in the same domain");

    fake.run("group set site1/staff -accounts=anna description=").unwrap();
    let staff = fake.item("groups", "staff").unwrap();
    assert_eq!((&staff["accounts"], staff.get("description")), (&json!([bob]), None));
    // The beginning of an id will do, and what is so already is not written.
    let beginning = &bob.as_str().unwrap()[..6];
    fake.run(&format!("account set {beginning} disabled=true")).unwrap();
    assert_eq!(fake.item("accounts", "bob").unwrap()["disabled"], true);
    let before = fake.kept().asked.iter().filter(|asked| asked.starts_with("PATCH")).count();
    fake.run("account set bob disabled=true").unwrap();
    let after = fake.kept().asked.iter().filter(|asked| asked.starts_with("PATCH")).count();
    assert_eq!(before, after);

    for line in ["account list", "account list --json", "account list an --output name"] {
        fake.run(line).unwrap();
    }
    fake.run("account show site1/anna").unwrap();
    fake.run("account show anna --domain site1 --json").unwrap();
    fake.run("account history bob").unwrap();
    fake.run("encoder add gate").unwrap();
    fake.run("encoder key gate --overlap 0").unwrap();
    fake.run("encoder key gate --list").unwrap();
    fake.run("account rm bob --yes").unwrap();
    assert_eq!(fake.item("accounts", "bob"), None);
}

#[test]
fn every_outcome_has_its_exit_code() {
    let fake = Fake::start();
    fake.run("account add anna").unwrap();
    let exit = |line: &str| fake.run(line).unwrap_err().exit;
    assert_eq!(exit("account show nobody"), Exit::NoSuchThing);
    assert_eq!(exit("account set nobody disabled=true"), Exit::NoSuchThing);
    assert_eq!(exit("group add g +accounts=nobody"), Exit::NoSuchThing);
    for line in [
        "account set anna",
        "account set anna disabled=maybe",
        "account set anna colour=red",
        "account set anna +email=x",
        "account rm anna",
        "group add x --password-stdin",
    ] {
        assert_eq!(exit(line), Exit::Usage, "{line}");
    }
    assert!(fake.item("accounts", "anna").is_some(), "nobody said yes");
    let refused = fake.run("rule add r role=king").unwrap_err();
    assert_eq!(refused.exit, Exit::Usage);
    assert!(refused.message.contains("role: it is one of viewer, admin"), "{refused:?}");
    let late = fake.run("account set anna email=x --wait 3").unwrap_err();
    assert_eq!(late.exit, Exit::DeadlinePassed);
    assert_eq!(fake.item("accounts", "anna").unwrap()["email"], "x", "it was done all the same");
    let path = fake.path();
    drop(fake);
    let line = format!("roost account list --addr unix:{}", path.display());
    let args = <crate::cli::Roost as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
    let asked = crate::cli::block_on(crate::cli::asking(args.command));
    assert_eq!(asked.unwrap_err().exit, Exit::NoNodeAnswered);
}

#[test]
fn what_somebody_else_changed_meanwhile_is_kept_unless_it_is_the_same_field() {
    let fake = Fake::start();
    fake.run("group add staff description=old").unwrap();
    fake.run("account add anna").unwrap();
    let anna = fake.item("accounts", "anna").unwrap()["id"].clone();
    let meanwhile = |value| fake.kept().meanwhile = Some(value);
    // Another field, and the same set: both changes are there afterwards.
    meanwhile(json!({ "pools": ["p"], "accounts": ["other"] }));
    fake.run("group set staff description=new +accounts=anna").unwrap();
    let staff = fake.item("groups", "staff").unwrap();
    assert_eq!(staff["description"], "new");
    assert_eq!((&staff["pools"], &staff["accounts"]), (&json!(["p"]), &json!(["other", anna])));
    // The same field, to the same: nothing is left to do.
    meanwhile(json!({ "description": "same" }));
    fake.run("group set staff description=same").unwrap();
    // To something else: neither is lost, and somebody has to decide.
    meanwhile(json!({ "description": "theirs" }));
    let clash = fake.run("group set staff description=mine").unwrap_err();
    assert_eq!(clash.exit, Exit::Conflict);
    let told = "description was same, is theirs now, and you want mine";
    assert!(clash.message.contains(told), "{clash:?}");
    assert_eq!(fake.item("groups", "staff").unwrap()["description"], "theirs");
    meanwhile(json!({ "description": "again" }));
    let clash = fake.run("group rm staff --yes").unwrap_err();
    assert_eq!(clash.exit, Exit::Conflict, "what is removed is what was seen");
    assert!(fake.item("groups", "staff").is_some());
}

#[test]
fn setting_a_field_settles_its_conflict_also_with_the_value_that_is_shown() {
    let fake = Fake::start();
    fake.run("group add staff description=a").unwrap();
    let by = json!({ "account": null, "node": null, "at": 1 });
    for (item, _) in fake.kept().items.values_mut() {
        let mut values = vec![by.clone(), by.clone()];
        values[0]["value"] = json!("a");
        values[1]["value"] = json!("b");
        item["conflicts"] = json!({ "description": values });
    }
    fake.run("group show staff").unwrap();
    fake.run("group set staff description=a").unwrap();
    assert_eq!(fake.item("groups", "staff").unwrap()["conflicts"], json!({}));
}

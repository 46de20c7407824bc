//! A changed policy takes effect without a restart: on SIGHUP, and when the configuration file changes.
//!
//! Only the policy does: `[[grants]]`, `[token] require` and `[token] capability`. A file that is broken, or that would
//! take every rule away, changes nothing: a lost file must not open what was closed.

use std::{io, path::PathBuf, time::Duration};

use actix_web::web::Data;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::UnixMillis,
    config::{Config, Problems, Sources, TomlFile},
    issuer::Issuer,
    policy::Policy,
    telemetry::metrics::ReloadMetrics,
    tenant::TenantName,
};

/// How often the file is looked at. It is small, and a mounted secret or config map changes in ways that no notification
/// tells reliably.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the configuration of a running service.
pub struct Reload {
    /// What `--config` names.
    config_path: Option<PathBuf>,
    /// The settings in force.
    current: Config,
    issuer: Data<Issuer>,
    metrics: ReloadMetrics,
    hang_up: Signal,
    /// The file that was loaded last, taken or refused.
    loaded: TomlFile,
}

/// What the last look at the file found.
enum Look {
    /// What is loaded.
    Same,
    /// Something else. It may be half of what is being written, so it is loaded when the next look finds it again.
    Other(TomlFile),
}

/// What becomes of a new configuration.
#[derive(Debug)]
enum ReloadDecision {
    /// Its policy takes effect. The sections named have other changes, which need a restart.
    Take { config: Box<Config>, waiting: Vec<String> },
    /// A tenant has no rules in it, and has some in force; or no rules and no requirement, and has one in force.
    LosesThePolicy(TenantName),
    /// A tenant's rules go with new settings of its tokens, and not with those in force.
    NeedsARestart(TenantName),
}

impl Reload {
    /// Watches for `issuer`, which was made of `current`, for which `file` was read. From here on SIGHUP does not end
    /// the process.
    pub fn new(
        config_path: Option<PathBuf>,
        file: TomlFile,
        current: Config,
        issuer: Data<Issuer>,
        metrics: ReloadMetrics,
    ) -> io::Result<Self> {
        let hang_up = signal(SignalKind::hangup())?;
        Ok(Self { config_path, current, issuer, metrics, hang_up, loaded: file })
    }

    /// Watches for ever.
    pub async fn watch(mut self) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Look::Same;
        loop {
            tokio::select! {
                received = self.hang_up.recv() => match received {
                    // Loaded even if it is the same: files that variables name may have changed.
                    Some(()) => last = Look::Other(self.file()),
                    None => return,
                },
                _ = look.tick() => {
                    let file = self.file();
                    last = match last {
                        Look::Other(seen) if seen == file => {
                            self.load(file);
                            Look::Same
                        }
                        Look::Same if file == self.loaded => Look::Same,
                        _ => Look::Other(file),
                    };
                }
            }
        }
    }

    fn file(&self) -> TomlFile {
        Sources::toml_file(self.config_path.as_deref())
    }

    fn load(&mut self, file: TomlFile) {
        let sources = Sources::with_file(self.config_path.as_deref(), &file);
        self.loaded = file;
        match Config::load(&sources) {
            Ok((config, _)) => match self.current.judge(config) {
                ReloadDecision::Take { config, waiting } => self.take(*config, &waiting),
                ReloadDecision::NeedsARestart(tenant) => {
                    self.metrics.refused();
                    tracing::error!(
                        %tenant,
                        "the new rules go with new settings of the tokens, which need a restart; the old policy stays in \
                         force"
                    );
                }
                ReloadDecision::LosesThePolicy(tenant) => {
                    self.metrics.refused();
                    tracing::error!(
                        %tenant,
                        "the new configuration takes the policy away; the old one stays in force. Restart if that is \
                         meant"
                    );
                }
            },
            Err(Problems(problems)) => {
                self.metrics.refused();
                for problem in problems {
                    tracing::error!(%problem, "the new configuration is refused; the old policy stays in force");
                }
            }
        }
    }

    fn take(&mut self, config: Config, waiting: &[String]) {
        for section in waiting {
            tracing::warn!(section, "changed settings of this section take effect with a restart");
        }
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        for new in config.tenants {
            let name = new.name();
            let current = self.current.tenants.iter_mut().find(|tenant| tenant.name() == name);
            let Some((current, tenant)) = current.zip(self.issuer.tenants().named(&name)) else { continue };
            let policy = Policy { ttl: current.token.ttl, ..new.policy };
            if current.policy.require.is_some() && policy.require.is_none() {
                tracing::warn!(tenant = %name, "the new configuration requires nothing of every session any more");
            }
            let rules = policy.rules.len();
            current.policy = policy.clone();
            current.token.capability = new.token.capability;
            tenant.replace_policy(policy);
            tracing::info!(tenant = %name, rules, "the policy is reloaded");
        }
        self.metrics.taken(UnixMillis::now());
    }
}

impl Config {
    fn judge(&self, new: Self) -> ReloadDecision {
        let of_both = self.tenants.iter().filter_map(|current| Some((current, new.tenant(&current.name())?)));
        for (current, new) in of_both {
            let (policy, new) = (&current.policy, &new.policy);
            let loses_rules = policy.has_rules() && !new.has_rules();
            let loses_requirement = policy.require.is_some() && new.require.is_none() && !new.has_rules();
            if loses_rules || loses_requirement {
                return ReloadDecision::LosesThePolicy(current.name());
            }
            if !current.can_have(new) {
                return ReloadDecision::NeedsARestart(current.name());
            }
        }
        let waiting = self.differences_beyond_policy(&new);
        ReloadDecision::Take { config: Box::new(new), waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "[[grants]]\nname = \"all\"\ncapability = { \"chat\" = [\"*\"] }\n";

    fn config(environment: &[(&str, &str)], toml: &str) -> Config {
        let required =
            [("ABLY_API_KEY", "app.key:secret"), ("CLERK_PUBLISHABLE_KEY", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k")];
        let unset = |name: &str| environment.iter().all(|(other, _)| *other != name);
        let required: Vec<_> = required.into_iter().filter(|(name, _)| unset(name)).collect();
        Config::load(&Sources::for_test(&[&required, environment].concat(), toml)).unwrap().0
    }

    fn waiting(environment: &[(&str, &str)], toml: &str) -> Vec<String> {
        match config(&[], RULE).judge(config(environment, toml)) {
            ReloadDecision::Take { waiting, .. } => waiting,
            verdict => panic!("not taken: {verdict:?}"),
        }
    }

    #[test]
    fn a_policy_is_taken_and_other_changes_wait_for_a_restart() {
        assert_eq!(waiting(&[], &RULE.replace("chat", "news")), <[&str; 0]>::default());
        assert_eq!(waiting(&[("TOKEN_TTL", "5m"), ("SERVER_PORT", "1")], RULE), ["token", "server"]);
        assert_eq!(waiting(&[("ADMIN_PORT", "0")], RULE), ["admin"]);
        assert_eq!(waiting(&[("ABLY_API_KEY", "app.key:other")], RULE), ["ably"]);
        assert_eq!(waiting(&[("CLERK_SECRET_KEY", "sk_test_new")], RULE), ["clerk"]);
    }

    #[test]
    fn rules_that_the_settings_in_force_cannot_carry_need_a_restart() {
        let rated =
            "[[grants]]\nname = \"all\"\ncapability = { \"*\" = [\"publish\"] }\npublish_rate = { \"*\" = 1 }\n";
        let jwt = [("TOKEN_FORMAT", "jwt")];
        let verdict = config(&[], RULE).judge(config(&jwt, rated));
        assert!(matches!(verdict, ReloadDecision::NeedsARestart(_)), "{verdict:?}");
        assert!(matches!(config(&jwt, RULE).judge(config(&jwt, rated)), ReloadDecision::Take { .. }));
        let long = format!("{RULE}ttl = \"2h\"\n");
        let revocable = [("ABLY_REVOCABLE_TOKENS", "true")];
        let verdict = config(&revocable, RULE).judge(config(&[], &long));
        assert!(matches!(verdict, ReloadDecision::NeedsARestart(_)), "{verdict:?}");
    }

    #[test]
    fn a_tenant_that_takes_the_name_of_the_flat_form_takes_its_place() {
        let tenants = format!(
            "[[tenants]]\nname = \"NAME\"\nably.api_key = \"app.key:secret\"\n\
             clerk.publishable_key = \"pk_test_Y2xlcmsuZXhhbXBsZS5jb20k\"\n{}",
            RULE.replace("grants", "tenants.grants")
        );
        let none = [("ABLY_API_KEY", ""), ("CLERK_PUBLISHABLE_KEY", "")];
        for (name, waiting) in [("default", &[][..]), ("acme", &["tenants"])] {
            let ReloadDecision::Take { waiting: told, .. } =
                config(&[], RULE).judge(config(&none, &tenants.replace("NAME", name)))
            else {
                panic!("not taken")
            };
            assert_eq!(told, waiting);
        }
    }

    #[test]
    fn a_lost_policy_is_not_taken_for_an_open_one() {
        let require = "[token]\nrequire = { role = \"admin\" }\n";
        for (old, new, lost) in [
            (RULE, "", true),
            (RULE, "[token]\ncapability = \"key\"", true),
            (require, "", true),
            (RULE, require, true),
            ("", RULE, false),
            ("", "", false),
        ] {
            let verdict = config(&[], old).judge(config(&[], new));
            assert_eq!(matches!(verdict, ReloadDecision::LosesThePolicy(_)), lost, "{old:?} to {new:?}");
        }
    }
}

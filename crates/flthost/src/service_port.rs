//! The ports at which services are asked, as they are configured.

use std::str::FromStr;

use crate::filter::Altitude;
use crate::filters::mute::MUTE;
use crate::policy::Policies;

/// A port at which services are asked.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its name below those of the host. One with `-remote` behind it is for network and FUSE filesystems.
    pub name: String,
    /// Higher ones are asked first, those of one altitude side by side.
    pub altitude: Altitude,
    /// What happens to what no service of this port decides; the host's policies without. The deadline is the host's.
    pub policies: Option<Policies>,
    /// Whether its services may ask for mutes of their own.
    pub grant_mutes: bool,
}

/// The port of the scanner that the host starts.
pub const SCAN: &str = "scan";

/// Behind the name of a port, for services of network and FUSE filesystems.
pub const REMOTE: &str = "-remote";

/// Where anti-virus stands on Windows; there is room for others above and below.
const ALTITUDE: Altitude = Altitude(328_000);

/// Right above the highest, verdicts are kept; above that are the rules.
const HIGHEST: u32 = MUTE.0 - 2;

/// Ports of this host that are not for services.
const TAKEN: [&str; 2] = ["control", "events"];

impl ServicePort {
    /// A port of this name, where services are asked if nothing else is said.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            altitude: ALTITUDE,
            policies: None,
            grant_mutes: false,
        }
    }

    /// Checks that each port has a name of its own.
    ///
    /// # Errors
    /// Names the one that comes twice.
    pub fn check(ports: &[Self]) -> Result<(), String> {
        for (place, port) in ports.iter().enumerate() {
            let earlier = ports.iter().take(place);
            if earlier.into_iter().any(|other| other.name == port.name) {
                return Err(format!("{}: there can be one such port only", port.name));
            }
        }
        Ok(())
    }
}

impl FromStr for ServicePort {
    type Err = String;

    /// `NAME` or `NAME@ALTITUDE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, altitude) = match text.split_once('@') {
            None => (text, ALTITUDE),
            Some((name, altitude)) => {
                let number: u32 = altitude.parse().map_err(|_| {
                    format!("{altitude}: an altitude is a number such as {}", ALTITUDE.0)
                })?;
                if !(1..=HIGHEST).contains(&number) {
                    return Err(format!(
                        "{number}: altitudes of services are from 1 to {HIGHEST}; above are rules about what is not asked"
                    ));
                }
                (name, Altitude(number))
            }
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return Err(format!(
                "{name:?}: a port's name has 1 to 64 letters, digits, or -_."
            ));
        }
        if TAKEN.contains(&name) || name.ends_with(REMOTE) {
            return Err(format!("{name}: the host has a port of this name itself"));
        }
        Ok(Self {
            altitude,
            ..Self::new(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_with_their_altitude_and_mistakes_say_what_is_right() {
        let port: ServicePort = "av@400000".parse().unwrap();
        assert_eq!(
            (port.name.as_str(), port.altitude),
            ("av", Altitude(400_000))
        );
        assert_eq!("av".parse::<ServicePort>().unwrap().altitude, ALTITUDE);
        for (text, word) in [
            ("", "letters"),
            ("a b", "letters"),
            ("a\\b", "letters"),
            ("control", "itself"),
            ("av-remote", "itself"),
            ("av@high", "number"),
            ("av@0", "from 1"),
            ("av@400499", "from 1"),
        ] {
            let error = text.parse::<ServicePort>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn two_ports_of_one_name_are_refused() {
        let two = ["av", "av@1"].map(|text| text.parse::<ServicePort>().unwrap());
        assert!(ServicePort::check(&two).unwrap_err().contains("av"));
        assert!(ServicePort::check(&two[..1]).is_ok());
    }
}

"""The options of ssh_config(5) that aren't honoured: possible with one value only, or refused."""

from __future__ import annotations

from fabremote.ssh_table import Option

FORWARD = "Forwarding is done by the program: use `Connection.forward_local` or `forward_remote`."
NO_GSSAPI = "paramiko 5 has no GSSAPI. Log in with a key or a password."
NO_X11 = "There is no X11 forwarding. Use ssh itself for graphical programs."
NO_CANONICAL = "Names aren't canonicalised: give the host's full name or `HostName`."
NO_MASTER = "No control socket is used: a connection is kept and shared by its calls as it is."
NO_TUN = "paramiko can't forward tun devices. Use ssh itself."
IN_FILES = "It has meaning only in a file: put it into ~/.ssh/config, or decide in Python."
NOT_ASKED = "There are no login sessions to type into."


def only(name: str, values: str, note: str) -> Option:
    words = tuple(values.split())
    return Option(name, note, " or ".join(words), values=words)


FIXED = (
    only("AddKeysToAgent", "no", "Keys aren't given to the agent: run `ssh-add`."),
    only("CanonicalizeFallbackLocal", "yes", NO_CANONICAL),
    only("CanonicalizeHostname", "no none", NO_CANONICAL),
    only("CanonicalizePermittedCNAMEs", "none", NO_CANONICAL),
    only("ClearAllForwardings", "yes no", f"Nothing is forwarded by an option. {FORWARD}"),
    only("ControlMaster", "no", NO_MASTER),
    only("ControlPath", "none", NO_MASTER),
    only("ControlPersist", "no", NO_MASTER),
    only("EnableEscapeCommandline", "no", NOT_ASKED),
    only("EnableSSHKeysign", "no", "paramiko has no hostbased login. Use a key."),
    only("EscapeChar", "none", NOT_ASKED),
    only("ExitOnForwardFailure", "yes no", f"No forwarding can fail at login. {FORWARD}"),
    only("FingerprintHash", "sha256", "Fingerprints are shown as SHA256."),
    only("ForkAfterAuthentication", "no", "A call doesn't fork: use `submit`."),
    only("ForwardX11", "no", NO_X11),
    only("ForwardX11Trusted", "no", NO_X11),
    only("GatewayPorts", "no", f"Nothing is forwarded by an option. {FORWARD}"),
    only("GSSAPIAuthentication", "no", NO_GSSAPI),
    only("GSSAPIDelegateCredentials", "no", NO_GSSAPI),
    only("GSSAPIKeyExchange", "no", NO_GSSAPI),
    only("GSSAPIRenewalForcesRekey", "no", NO_GSSAPI),
    only("GSSAPITrustDns", "no", NO_GSSAPI),
    only("HostbasedAuthentication", "no", "paramiko has no hostbased login. Use a key."),
    only(
        "KnownHostsCommand",
        "none",
        "Host keys come from files only: write the command's output to a file and name it with "
        "UserKnownHostsFile.",
    ),
    only("LogVerbose", "none", "paramiko's log has no such parts. Use LogLevel DEBUG."),
    only(
        "NoHostAuthenticationForLocalhost",
        "no",
        "Host keys are always verified. Set UserKnownHostsFile to a file for such hosts.",
    ),
    only(
        "ObscureKeystrokeTiming",
        "no",
        "paramiko can't send decoy packets: what is typed with `pty=True` can be timed.",
    ),
    only("PermitLocalCommand", "no", "No local command is run: call it in Python afterwards."),
    only("PermitRemoteOpen", "any", f"There is no SOCKS forwarding to restrict. {FORWARD}"),
    only("PKCS11Provider", "none", "paramiko can't use PKCS#11: give its keys to an agent."),
    only("ProxyUseFdpass", "no", "The command's stdin and stdout are used: give one that relays."),
    only("RemoteCommand", "none", "Functions are what is run: use `call`, or `Connection.run`."),
    only(
        "RequestTTY",
        "no auto",
        "A call has a terminal with `pty=True`, as a command of Fabric's has.",
    ),
    only("SessionType", "default", "Calls need a command's session. Use `Connection` for others."),
    only("StdinNull", "no", "A call's stdin is its own `in_stream`, which is empty unless given."),
    only("StreamLocalBindMask", "0177", FORWARD),
    only("StreamLocalBindUnlink", "no", FORWARD),
    only("Tunnel", "no", NO_TUN),
    only("UpdateHostKeys", "no", "known_hosts isn't rewritten: update it with ssh itself."),
    only("VerifyHostKeyDNS", "no", "SSHFP records can't be verified: put keys in known_hosts."),
    only("VisualHostKey", "no", "Keys aren't drawn; the SHA256 fingerprint is shown."),
    only("WarnWeakCrypto", "no", "There is no such warning: restrict KexAlgorithms instead."),
)

REFUSED = (
    Option("CanonicalDomains", NO_CANONICAL),
    Option("CanonicalizeMaxDots", NO_CANONICAL),
    Option(
        "CASignatureAlgorithms",
        "Host certificates may be signed by any algorithm but ssh-rsa (SHA-1), as usual. "
        "To trust no authority, leave @cert-authority out of the known_hosts files.",
    ),
    Option("ChannelTimeout", "Idle channels aren't closed: give calls a `timeout`."),
    Option("DynamicForward", "paramiko is no SOCKS server. Use `ssh -D`."),
    Option("ForwardX11Timeout", NO_X11),
    Option("GSSAPIClientIdentity", NO_GSSAPI),
    Option("GSSAPIKexAlgorithms", NO_GSSAPI),
    Option("GSSAPIServerIdentity", NO_GSSAPI),
    Option("Host", f"The options are for this host only. {IN_FILES}"),
    Option("HostbasedAcceptedAlgorithms", "paramiko has no hostbased login. Use a key."),
    Option("IgnoreUnknown", "Unknown options are never ignored: leave them out."),
    Option("Include", IN_FILES),
    Option("LocalCommand", "No local command is run: call it in Python afterwards."),
    Option("LocalForward", FORWARD),
    Option("Match", f"The options are for this host only. {IN_FILES}"),
    Option("RefuseConnection", "It would refuse every connection: raise an error in Python."),
    Option("RemoteForward", FORWARD),
    Option("SecurityKeyProvider", "paramiko can't use FIDO keys itself: give them to an agent."),
    Option("SyslogFacility", "Nothing goes to syslog: add a SysLogHandler to Python's logging."),
    Option("Tag", f"It selects Match blocks. {IN_FILES}"),
    Option("TunnelDevice", NO_TUN),
    Option("XAuthLocation", NO_X11),
)

_GONE = "OpenSSH has dropped it, with version 1 of the protocol or before: leave it out."
REMOVED = (
    *(
        Option(name, _GONE)
        for name in [
            "AFSTokenPassing",
            "CompressionLevel",
            "FallBackToRsh",
            "KerberosAuthentication",
            "KerberosTgtPassing",
            "RhostsAuthentication",
            "RhostsRSAAuthentication",
            "RSAAuthentication",
            "UsePrivilegedPort",
            "UseRoaming",
            "UseRsh",
        ]
    ),
    Option("Cipher", "It was for version 1 of the protocol: use Ciphers."),
    Option("GlobalKnownHostsFile2", "Name all the files in GlobalKnownHostsFile."),
    only("Protocol", "2", "Only version 2 of the protocol is spoken."),
    Option("SmartcardDevice", "paramiko can't use smart cards: give their keys to an agent."),
    Option(
        "UseKeychain", "Only macOS's own ssh has it: give the key to the agent with `ssh-add`."
    ),
    Option("UserKnownHostsFile2", "Name all the files in UserKnownHostsFile."),
)

# Old names, and Debian's, with what they are called now.
ALIASES = {
    "ChallengeResponseAuthentication": "KbdInteractiveAuthentication",
    "DSAAuthentication": "PubkeyAuthentication",
    "HostbasedKeyTypes": "HostbasedAcceptedAlgorithms",
    "IdentityFile2": "IdentityFile",
    "KeepAlive": "TCPKeepAlive",
    "ProtocolKeepAlives": "ServerAliveInterval",
    "PubkeyAcceptedKeyTypes": "PubkeyAcceptedAlgorithms",
    "SetupTimeOut": "ServerAliveInterval",
    "SKeyAuthentication": "KbdInteractiveAuthentication",
    "TISAuthentication": "KbdInteractiveAuthentication",
}

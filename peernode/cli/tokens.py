"""A token for each node, fetched from the user's home when a command first speaks to the node.

The home is the node of the last login with a password.  Whoever answers at a URL that is named to a
command is asked first to prove that it is the node it says it is; else it gets none.
"""

import os

from peernode.cli import output
from peernode.client import Client, ClientError, Policy, settings
from peernode.timestamps import rfc3339
from storage.clock import SystemClock


def with_token(client: Client, policy: Policy) -> Client:
    """Return a client of the same node that has a token, if the home gives one.

    Closes `client` if it returns another.
    """
    path = settings.config_path(os.environ)
    kept = settings.load(path)
    home, nodes = str(kept.get("default", "")), kept.get("node", {})
    entry = nodes.get(client.url, {})
    now = rfc3339(SystemClock().wall_ms())
    has_ended = client.token == entry.get("token") and str(entry.get("expires_at", "")) <= now
    if home in {"", client.url} or home not in nodes or (client.token and not has_ended):
        return client
    try:
        with Client(home, policy=policy) as at_home:
            found = at_home.token_for(str(client.health()["node_id"]))
        token = str(found["token"])
        there = Client(client.url, token, policy=policy)
        try:
            there.prove()
        except BaseException:
            there.close()
            raise
    except ClientError as error:
        output.note(f"no token for {client.url} from {home}: {error}")
        return client
    user, expires_at = str(nodes[home].get("user", "")), str(found["expires_at"])
    settings.remember(path, client.url, user, token, expires_at, is_default=False, key=there.key)
    client.close()
    return there

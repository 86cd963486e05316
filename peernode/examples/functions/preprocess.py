"""Watch a camera's pictures at the edge: what is found goes to the cloud, the picture is deleted.

Input `{"picture": {"blob": ID}}`, one picture a job.  A picture with a face in it: its findings are
posted to the address under `endpoint` in the key-value namespace `cloud`, whose host the project's
`egress` must list.  A picture without: nothing leaves.  Either way the picture is deleted with the
job's success; when the cloud does not take the findings the job fails, and the picture stays.

Findings, and result: what `detect_faces.py` returns, boxes and scores and the size of the picture,
and of the picture its `id` and `cid` too; no pixels.  A job that lost its worker runs again and may
post again: the `id` tells.

The detection is not written twice.  A function is one source, so the two files are deployed as one
text, this one last, with `watch` as the entry; `handler` below is that of `detect_faces.py`:

    cat detect_faces.py preprocess.py > watch.py
    peernode fn deploy vision/preprocess watch.py --entry watch
"""

import edge


def watch(input):
    """Look at `input["picture"]`, post what was found, delete the picture."""
    picture = input["picture"]
    findings = handler(input)  # noqa: F821
    findings["picture"] |= {"id": picture.id, "cid": picture.cid}
    if findings["faces"]:
        edge.progress(0.9, "uploading")
        answer = edge.http("POST", edge.kv("cloud")["endpoint"], json=findings)
        if answer.status >= 300:
            raise RuntimeError(f"the cloud answered {answer.status}")
    edge.delete_blob(picture.id)
    return findings

"""What a port makes of characters that were sent with other settings than its own."""


def levels(data, *, bits=8, parity=None, idle=2):
    """The line bit by bit, as the device sends: start bit, data with the lowest first, parity, stop, a pause."""
    line = [1] * idle
    for byte in data:
        body = [byte >> place & 1 for place in range(bits)]
        if parity:
            body.append((sum(body) + (parity == "odd")) & 1)
        line += [0, *body, 1, *[1] * idle]
    return line + [1] * idle


def heard(data, sent_baud, read_baud, *, idle=2, **sent):
    """The bytes of a port with eight bits and no parity, and its framing errors.

    Each bit is sampled in its middle. After a framing error the next start bit is looked for at once, as a 16550 does.
    """
    line = levels(data, idle=idle, **sent)
    step, end = sent_baud / read_baud, len(line)

    def level(at):
        return line[int(at)] if 0 <= at < end else 1

    got, errors, at = bytearray(), 0, 0.0
    while at < end:
        if level(at) == 1:
            at = int(at) + 1.0 if level(int(at) + 1.0) == 0 else at + step / 16
            continue
        got.append(sum(level(at + (place + 1.5) * step) << place for place in range(8)))
        if level(at + 9.5 * step):
            at += 9.5 * step
        else:
            errors += 1
            at += 9 * step
    return bytes(got), errors

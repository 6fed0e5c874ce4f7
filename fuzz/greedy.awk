# Reads libFuzzer's merge control file; prints the paths of inputs, that with
# most new features for its size first, until 40 or 200 KB are reached.
# The file: the number of inputs, of those that are kept already, all paths; then
# a line with "STARTED number size" and one with "FT number feature..." each.
FNR == 1 { count = $1; next }
FNR == 2 { next }
FNR <= 2 + count { path[FNR - 3] = $0; next }
$1 == "STARTED" { size[$2] = $3 }
$1 == "FT" { features[$2] = $0 }
END {
    left = 200 * 1024
    for (taken = 0; taken < 40; taken++) {
        best = -1
        rate = 0
        for (input in features) {
            if (size[input] > left)
                continue
            fields = split(features[input], feature, " ")
            new = 0
            for (at = 3; at <= fields; at++)
                if (!(feature[at] in seen))
                    new++
            # A quarter of a kilobyte for being a file.
            value = new / (size[input] + 256)
            if (value > rate || (value == rate && best >= 0 && path[input] < path[best])) {
                best = input
                rate = value
            }
        }
        if (best < 0)
            exit
        print path[best]
        left -= size[best]
        fields = split(features[best], feature, " ")
        for (at = 3; at <= fields; at++)
            seen[feature[at]] = 1
        delete features[best]
    }
}

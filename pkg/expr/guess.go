package expr

import "slices"

// Nearest gives the candidate that was most likely meant by a mistyped word: the one with the smallest edit distance, if
// that is at most a third of the word's length (at least 2); "" if none is near.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if abs(len(c)-len(word)) >= bestDistance {
			continue
		}
		if d := distance(word, c); d < bestDistance && d < max(len(word), len(c)) {
			best, bestDistance = c, d
		}
	}
	return best
}

func abs(n int) int { return max(n, -n) }

// distance is the Damerau-Levenshtein distance in its restricted form: insertions, deletions, substitutions and swaps of
// neighbours.
func distance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = slices.Clone(prev), slices.Clone(row)
	}
	return prev[len(b)]
}

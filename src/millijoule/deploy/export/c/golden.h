/* The golden test: pictures that everybody can make, and the logits that they must give.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef MJ_GOLDEN_H
#define MJ_GOLDEN_H

/* Classifies every golden picture. Returns how many logits are wrong, 0 is a pass, and how many were compared. */
int golden_failures(int *compared);

#endif

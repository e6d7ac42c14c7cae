// A picture in over the serial line, the name of its class out. SPDX-License-Identifier: Apache-2.0
#include <mj_model.h>

void setup() {
  Serial.begin(115200);
  Serial.setTimeout(60000);  // milliseconds for one picture
  Serial.println(mj_init() == MJ_OK ? "ready" : "self-test failed");
}

void loop() {
  mj_result result;
  if (Serial.readBytes(MJ_INPUT, MJ_INPUT_BYTES) == MJ_INPUT_BYTES) {  // rows from top to bottom, see mj_model.h
    mj_run(&result);
    Serial.println(mj_class_names[result.class_index]);
  }
}
